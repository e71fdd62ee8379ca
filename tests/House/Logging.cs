using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace FramePin.Tests.House;

/// <summary>Log events stand in one file of a program, Log.cs, each with a number and a name of its own.</summary>
internal static class Logging
{
    public const string FileName = "Log.cs";

    /// <summary>
    /// Events and log calls outside that file, second files of that name, and events without number or name.
    /// </summary>
    public static IEnumerable<Finding> Check(SourceProject project)
    {
        var declaring = new List<string>();
        var seen = new HashSet<string>(StringComparer.Ordinal);
        foreach (var tree in project.Compilation.SyntaxTrees.Where(tree => tree.FilePath.Length > 0))
        {
            var model = project.Compilation.GetSemanticModel(tree);
            var events = tree.GetRoot().DescendantNodes().OfType<AttributeSyntax>()
                .Where(attribute => attribute.Name.ToString() is "LoggerMessage" or "LoggerMessageAttribute").ToList();
            var isLog = Path.GetFileName(tree.FilePath) == FileName;
            if (events.Count > 0) declaring.Add(tree.FilePath);
            if (events.Count > 0 && !isLog)
                yield return new Finding(tree.FilePath, events.Count, $"log events outside {FileName}");
            foreach (var attribute in events)
                foreach (var wrong in Wrong(attribute, seen))
                    yield return new Finding($"{tree.FilePath}: {Method(attribute)}", 1, wrong);
            var calls = tree.GetRoot().DescendantNodes().OfType<InvocationExpressionSyntax>()
                .Count(call => IsLogCall(model, call));
            if (calls > 0)
                yield return new Finding(tree.FilePath, calls, $"log calls that are no event of {FileName}");
        }

        if (declaring.Distinct().Count(file => Path.GetFileName(file) == FileName) > 1)
            yield return new Finding(
                project.File, declaring.Count, $"more than one {FileName}: {string.Join(", ", declaring)}");
    }

    private static string Method(AttributeSyntax attribute) =>
        (attribute.Parent?.Parent as MethodDeclarationSyntax)?.Identifier.Text ?? "";

    private static IEnumerable<string> Wrong(AttributeSyntax attribute, HashSet<string> seen)
    {
        foreach (var name in new[] { "EventId", "EventName" })
        {
            var value = attribute.ArgumentList?.Arguments
                .FirstOrDefault(argument => argument.NameEquals?.Name.Identifier.Text == name)?.Expression.ToString();
            if (value is null) yield return $"{attribute}: no {name}";
            else if (!seen.Add($"{name} {value}")) yield return $"{attribute}: {name} {value} stands twice";
        }
    }

    /// <summary>A call of LoggerExtensions or of ILogger itself; a generated event method is neither.</summary>
    private static bool IsLogCall(SemanticModel model, InvocationExpressionSyntax call)
    {
        var name = call.Expression switch
        {
            MemberAccessExpressionSyntax access => access.Name.Identifier.Text,
            MemberBindingExpressionSyntax binding => binding.Name.Identifier.Text,
            IdentifierNameSyntax plain => plain.Identifier.Text,
            _ => "",
        };
        if (!name.StartsWith("Log", StringComparison.Ordinal) && name is not ("Define" or "BeginScope")) return false;
        var info = model.GetSymbolInfo(call);
        var called = (info.Symbol ?? info.CandidateSymbols.FirstOrDefault())?.ContainingType;
        return called is { Name: "LoggerExtensions" or "ILogger" or "LoggerMessage" } &&
            called.ContainingNamespace.ToDisplayString() == "Microsoft.Extensions.Logging";
    }
}
