using System.Collections.Concurrent;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace FramePin.Tests.House;

/// <summary>
/// A place in a hand-written file that uses a symbol that another hand-written file, or the same, declares.
/// </summary>
/// <param name="From">The file that uses it, relative to the root.</param>
/// <param name="User">The member or type in which the use stands; null at the top of a file.</param>
/// <param name="Target">What is used, as it was declared.</param>
/// <param name="IsWrite">A value is given to it.</param>
internal readonly record struct SymbolUse(string From, ISymbol? User, ISymbol Target, bool IsWrite)
{
    public bool IsFromTest => From.StartsWith("tests/", StringComparison.Ordinal);
}

/// <summary>
/// Every use of a type or member of this repository, found with the compiler: names, and what has no name in the source
/// (indexers, operators, constructors whose type is left out). A <c>using</c> line is no use.
/// </summary>
internal static class SymbolUses
{
    private static readonly Lazy<IReadOnlyList<SourceProject>> Projects = new(SourceProject.LoadAll);
    private static readonly Lazy<IReadOnlyList<SymbolUse>> Uses = new(() => Find(Projects.Value));

    public static IReadOnlyList<SourceProject> AllProjects => Projects.Value;

    /// <summary>The uses in all projects of the solution, found once in a run.</summary>
    public static IReadOnlyList<SymbolUse> All => Uses.Value;

    public static IReadOnlyList<SymbolUse> Find(IReadOnlyList<SourceProject> projects)
    {
        var uses = new ConcurrentBag<SymbolUse>();
        var trees = projects.SelectMany(project => project.Compilation.SyntaxTrees
            .Where(tree => tree.FilePath.Length > 0).Select(tree => (project, tree)));
        Parallel.ForEach(trees, pair => Walk(pair.project.Compilation.GetSemanticModel(pair.tree), uses));
        return [.. uses];
    }

    /// <summary>
    /// The hand-written file that declares a symbol, relative to the root; null for what comes from elsewhere.
    /// </summary>
    public static string? FileOf(ISymbol symbol) => symbol.DeclaringSyntaxReferences
        .Select(reference => reference.SyntaxTree.FilePath).FirstOrDefault(path => path.Length > 0);

    private static void Walk(SemanticModel model, ConcurrentBag<SymbolUse> uses)
    {
        foreach (var node in model.SyntaxTree.GetRoot().DescendantNodes(node => node is not UsingDirectiveSyntax))
        {
            if (node is not (SimpleNameSyntax or ElementAccessExpressionSyntax or BaseObjectCreationExpressionSyntax or
                BinaryExpressionSyntax or PrefixUnaryExpressionSyntax or AssignmentExpressionSyntax or
                ConstructorInitializerSyntax))
                continue;
            if (node is IdentifierNameSyntax { IsVar: true }) continue;
            var info = model.GetSymbolInfo(node);
            var found = info.Symbol ?? info.CandidateSymbols.FirstOrDefault();
            if (found is IMethodSymbol { ReducedFrom: { } extension }) found = extension;
            if (found is IMethodSymbol { AssociatedSymbol: { } owner }) found = owner;
            var target = found?.OriginalDefinition;
            if (target is null or INamespaceSymbol or ILocalSymbol or IParameterSymbol or ITypeParameterSymbol or
                ILabelSymbol or IRangeVariableSymbol or IAliasSymbol || FileOf(target) is null)
                continue;
            uses.Add(new SymbolUse(model.SyntaxTree.FilePath, UserOf(model, node), target, IsWrite(node)));
        }
    }

    private static bool IsWrite(SyntaxNode node)
    {
        var written = node.Parent is MemberAccessExpressionSyntax access && access.Name == node ? access : node;
        return written.Parent switch
        {
            AssignmentExpressionSyntax assignment => assignment.Left == written,
            ArgumentSyntax argument => argument.RefKindKeyword.RawKind != 0,
            PrefixUnaryExpressionSyntax or PostfixUnaryExpressionSyntax =>
                written.Parent.Kind() is SyntaxKind.PreIncrementExpression or SyntaxKind.PreDecrementExpression or
                    SyntaxKind.PostIncrementExpression or SyntaxKind.PostDecrementExpression,
            RefExpressionSyntax => true,
            _ => false,
        };
    }

    /// <summary>The declared member around a node, a field's own declarator included.</summary>
    private static ISymbol? UserOf(SemanticModel model, SyntaxNode node)
    {
        for (var around = node.Parent; around is not null; around = around.Parent)
            switch (around)
            {
                case VariableDeclaratorSyntax { Parent.Parent: BaseFieldDeclarationSyntax }:
                case MemberDeclarationSyntax and not (BaseFieldDeclarationSyntax or GlobalStatementSyntax or
                    BaseNamespaceDeclarationSyntax):
                    return model.GetDeclaredSymbol(around);
                case BaseFieldDeclarationSyntax field:
                    return model.GetDeclaredSymbol(field.Declaration.Variables[0]);
            }

        return null;
    }
}
