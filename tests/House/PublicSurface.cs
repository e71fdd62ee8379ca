using System.Xml.Linq;
using Microsoft.CodeAnalysis;

namespace FramePin.Tests.House;

/// <summary>
/// The promises of the packages' public members: each has a comment, its parameters too, and every asynchronous method
/// takes a token as its last parameter.
/// </summary>
internal static class PublicSurface
{
    private static readonly string[] Asynchronous = ["Task", "ValueTask", "IAsyncEnumerable"];

    /// <summary>The public and protected types and members that the hand-written files of a project declare.</summary>
    public static IEnumerable<ISymbol> Of(SourceProject project) =>
        Within(project.Compilation.Assembly.GlobalNamespace).Where(symbol => SymbolUses.FileOf(symbol) is not null);

    /// <summary>Asynchronous methods whose last parameter is no CancellationToken.</summary>
    public static IEnumerable<Finding> WithoutToken(IEnumerable<ISymbol> surface)
    {
        foreach (var method in surface.OfType<IMethodSymbol>())
        {
            if (!Asynchronous.Contains(method.ReturnType.Name) || IsImposed(method)) continue;
            if (method.Parameters.LastOrDefault()?.Type.Name == "CancellationToken") continue;
            yield return Finding(method, "takes no CancellationToken as its last parameter");
        }
    }

    /// <summary>Types and members without a summary, and parameters that theirs does not name.</summary>
    public static IEnumerable<Finding> Undocumented(IEnumerable<ISymbol> surface)
    {
        foreach (var symbol in surface)
        {
            var comment = Comment(symbol);
            if (comment?.Element("inheritdoc") is not null) continue;
            if (string.IsNullOrWhiteSpace(comment?.Element("summary")?.Value))
            {
                yield return Finding(symbol, "has no summary");
                continue;
            }

            var named = comment.Elements("param").Concat(comment.Elements("typeparam"))
                .Select(element => element.Attribute("name")?.Value).ToHashSet();
            foreach (var name in Names(symbol).Where(name => !named.Contains(name)))
                yield return Finding(symbol, $"does not say what {name} is");
        }
    }

    private static IEnumerable<ISymbol> Within(INamespaceOrTypeSymbol around)
    {
        foreach (var member in around.GetMembers())
        {
            if (member is INamespaceSymbol inner)
            {
                foreach (var symbol in Within(inner)) yield return symbol;
                continue;
            }

            if (!IsSeen(member)) continue;
            if (!member.IsImplicitlyDeclared && IsOfTheSource(member)) yield return member;
            if (member is not INamedTypeSymbol type) continue;
            foreach (var symbol in Within(type)) yield return symbol;
        }
    }

    private static bool IsSeen(ISymbol symbol) => symbol.DeclaredAccessibility is
        Accessibility.Public or Accessibility.Protected or Accessibility.ProtectedOrInternal;

    /// <summary>Accessors share the comment of their property, and the members of a positional record that of it.
    /// </summary>
    private static bool IsOfTheSource(ISymbol symbol) => symbol switch
    {
        IMethodSymbol { AssociatedSymbol: not null } => false,
        IMethodSymbol { MethodKind: MethodKind.Constructor } made => !IsPrimary(made),
        IPropertySymbol property => !property.DeclaringSyntaxReferences.Any(
            place => place.GetSyntax() is Microsoft.CodeAnalysis.CSharp.Syntax.ParameterSyntax),
        _ => true,
    };

    private static bool IsPrimary(IMethodSymbol constructor) => constructor.DeclaringSyntaxReferences.Any(
        place => place.GetSyntax() is Microsoft.CodeAnalysis.CSharp.Syntax.TypeDeclarationSyntax);

    /// <summary>The signature is another's: an override, or the method of an interface of the platform.</summary>
    private static bool IsImposed(IMethodSymbol method) =>
        method.IsOverride || method.Name is "DisposeAsync" || method.MethodKind == MethodKind.DelegateInvoke;

    private static IEnumerable<string> Names(ISymbol symbol) => symbol switch
    {
        IMethodSymbol method => method.Parameters.Select(parameter => parameter.Name)
            .Concat(method.TypeParameters.Select(parameter => parameter.Name)),
        INamedTypeSymbol { DelegateInvokeMethod: { } invoke } => invoke.Parameters.Select(parameter => parameter.Name),
        INamedTypeSymbol type => type.TypeParameters.Select(parameter => parameter.Name).Concat(
            type.InstanceConstructors.Where(made => !made.IsImplicitlyDeclared && IsPrimary(made))
                .SelectMany(made => made.Parameters).Select(parameter => parameter.Name)),
        _ => [],
    };

    private static XElement? Comment(ISymbol symbol) =>
        symbol.GetDocumentationCommentXml() is { Length: > 0 } text ? XElement.Parse(text) : null;

    private static Finding Finding(ISymbol symbol, string message) =>
        new(symbol.ToDisplayString(), 1, $"{SymbolUses.FileOf(symbol)}: {symbol.ToDisplayString()} {message}");
}
