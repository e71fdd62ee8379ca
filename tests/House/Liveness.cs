using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace FramePin.Tests.House;

/// <summary>
/// Which members of src are reached by src itself, which by tests only, and which by nothing. A member counts as
/// reached when code that is itself reached uses it. Members of enums are left out: they are the kernel's tables, whole
/// or not at all.
/// </summary>
internal sealed class Liveness
{
    /// <summary>Methods that the language or a framework calls by their shape, without a name in the source.</summary>
    private static readonly string[] CalledByShape =
        ["Dispose", "DisposeAsync", "GetEnumerator", "MoveNext", "Current", "Deconstruct", "Main", "InvokeAsync"];

    private readonly Dictionary<(string File, int Start), Member> members = [];

    private Liveness(IEnumerable<SourceProject> projects, IEnumerable<SymbolUse> uses)
    {
        foreach (var project in projects)
            foreach (var tree in project.Compilation.SyntaxTrees.Where(tree => IsSource(tree.FilePath)))
                Declare(project, project.Compilation.GetSemanticModel(tree));
        foreach (var use in uses)
            if (Key(use.Target) is { } key && members.TryGetValue(key, out var target))
                target.Users.Add((use.IsFromTest, use.IsWrite, use.User is null ? null : Key(use.User)));
        Spread();
    }

    /// <summary>Members and types that only tests reach, and values that src reads and only tests set.</summary>
    public IEnumerable<Finding> TestOnly =>
        Findings(member => member.IsTested, "only tests use it").Concat(SetByTests());

    /// <summary>Members and types that nothing reaches.</summary>
    public IEnumerable<Finding> Unused => Findings(member => !member.IsTested, "nothing uses it");

    public static Liveness Of(IReadOnlyList<SourceProject> projects, IReadOnlyList<SymbolUse> uses) =>
        new(projects, uses);

    private static bool IsSource(string path) =>
        path.StartsWith("src/", StringComparison.Ordinal) || path.StartsWith("protos/", StringComparison.Ordinal);

    private void Declare(SourceProject project, SemanticModel model)
    {
        foreach (var node in model.SyntaxTree.GetRoot().DescendantNodes())
        {
            if (node is not (MemberDeclarationSyntax or
                VariableDeclaratorSyntax { Parent.Parent: BaseFieldDeclarationSyntax }))
                continue;
            if (node is BaseFieldDeclarationSyntax or BaseNamespaceDeclarationSyntax or GlobalStatementSyntax) continue;
            if (model.GetDeclaredSymbol(node) is { } symbol && Key(symbol) is { } key)
                members.TryAdd(key, new Member(symbol, IsRoot(project, symbol)));
        }
    }

    /// <summary>
    /// Members that run without being named: entry points, overrides, implementations, and what a package promises.
    /// </summary>
    private static bool IsRoot(SourceProject project, ISymbol symbol)
    {
        if (symbol.IsOverride || symbol.IsImplicitlyDeclared || CalledByShape.Contains(symbol.Name)) return true;
        if (symbol is IMethodSymbol { MethodKind: not MethodKind.Ordinary }) return true;
        if (symbol is INamedTypeSymbol program && !program.GetMembers("Main").IsEmpty) return true;
        if (symbol is IFieldSymbol { ContainingType: var around } &&
            (around.TypeKind == TypeKind.Enum || IsLaidOut(around)))
            return true;
        if (symbol is not INamedTypeSymbol && symbol.ContainingType is { } type && type.AllInterfaces
                .SelectMany(contract => contract.GetMembers()).Any(member => SymbolEqualityComparer.Default.Equals(
                    type.FindImplementationForInterfaceMember(member), symbol)))
            return true;
        return project.IsPackage && IsVisible(symbol);
    }

    /// <summary>Fields of a struct with a layout are the kernel's, named or not.</summary>
    private static bool IsLaidOut(INamedTypeSymbol type) =>
        type.GetAttributes().Any(attribute => attribute.AttributeClass?.Name == "StructLayoutAttribute");

    private static bool IsVisible(ISymbol symbol)
    {
        for (var around = symbol; around is not null and not INamespaceSymbol; around = around.ContainingSymbol)
            if (around.DeclaredAccessibility is not
                (Accessibility.Public or Accessibility.Protected or Accessibility.ProtectedOrInternal))
                return false;
        return true;
    }

    /// <summary>Marks what is reached, from the roots on, until nothing new is: first by src, then by tests.</summary>
    private void Spread()
    {
        for (var changed = true; changed;)
        {
            changed = false;
            foreach (var (key, member) in members)
                if (!member.IsLive &&
                    (member.IsRoot || member.Users.Any(user => !user.IsTest && IsLive(user.Member, key))))
                    changed = member.IsLive = true;
        }

        for (var changed = true; changed;)
        {
            changed = false;
            foreach (var (key, member) in members)
                if (!member.IsLive && !member.IsTested &&
                    member.Users.Any(user => user.IsTest || IsTested(user.Member, key)))
                    changed = member.IsTested = true;
        }
    }

    private bool IsLive((string, int)? user, (string, int) of) =>
        user is not { } by || (!Within(by, of) && (!members.TryGetValue(by, out var member) || member.IsLive));

    private bool IsTested((string, int)? user, (string, int) of) => user is { } by && !Within(by, of) &&
        members.TryGetValue(by, out var member) && member.IsTested;

    /// <summary>A member is no user of itself, nor of the type that it stands in.</summary>
    private bool Within((string, int) inner, (string, int) outer)
    {
        if (inner == outer) return true;
        if (!members.TryGetValue(inner, out var member)) return false;
        for (var around = member.Symbol.ContainingType; around is not null; around = around.ContainingType)
            if (Key(around) == outer) return true;
        return false;
    }

    private IEnumerable<Finding> Findings(Func<Member, bool> which, string why)
    {
        foreach (var (key, member) in members)
            if (!IsReached(member) && which(member) && !StandsInOne(member))
                yield return new Finding(Name(member.Symbol), 1, $"{key.File}: {why}");
    }

    private IEnumerable<Finding> SetByTests()
    {
        foreach (var (key, member) in members)
            if (member.IsLive && !member.IsRoot && IsSettable(member.Symbol) &&
                member.Users.Any(user => user is { IsWrite: true, IsTest: true }) &&
                !member.Users.Any(user => user is { IsWrite: true, IsTest: false }))
                yield return new Finding(Name(member.Symbol), 1, $"{key.File}: src reads it and only tests set it");
    }

    private static bool IsSettable(ISymbol symbol) =>
        symbol is IFieldSymbol { IsConst: false } or IPropertySymbol { SetMethod: not null };

    /// <summary>A type that is reported stands for its members.</summary>
    private bool StandsInOne(Member member) => member.Symbol.ContainingType is { } type && Key(type) is { } key &&
        members.TryGetValue(key, out var owner) && !IsReached(owner) && owner.IsTested == member.IsTested;

    /// <summary>A type is reached when it is named or when one of its members is.</summary>
    private bool IsReached(Member member) => member.IsLive || (member.Symbol is INamedTypeSymbol type &&
        type.GetMembers().Any(inner => !inner.IsImplicitlyDeclared && Key(inner) is { } key &&
            members.TryGetValue(key, out var other) && other is { IsLive: true, IsRoot: false }));

    private static string Name(ISymbol symbol) =>
        symbol.ContainingType is { } type ? $"{type.Name}.{symbol.Name}" : symbol.Name;

    private static (string File, int Start)? Key(ISymbol symbol)
    {
        if (symbol is IMethodSymbol { AssociatedSymbol: { } owner }) symbol = owner;
        if (symbol is IMethodSymbol { PartialDefinitionPart: { } definition }) symbol = definition;
        var reference = symbol.DeclaringSyntaxReferences
            .FirstOrDefault(reference => reference.SyntaxTree.FilePath.Length > 0);
        return reference is null ? null : (reference.SyntaxTree.FilePath, reference.Span.Start);
    }

    private sealed class Member(ISymbol symbol, bool isRoot)
    {
        public ISymbol Symbol => symbol;

        public bool IsRoot => isRoot;

        public HashSet<(bool IsTest, bool IsWrite, (string File, int Start)? Member)> Users { get; } = [];

        public bool IsLive { get; set; }

        public bool IsTested { get; set; }
    }
}
