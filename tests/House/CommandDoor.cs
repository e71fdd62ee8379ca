using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace FramePin.Tests.House;

/// <summary>
/// In the server a command that takes memory away is run by one class, which asks the watches of the memory first. The
/// machine itself would run it for every caller.
/// </summary>
internal static class CommandDoor
{
    public const string Door = "src/Server/Machines/MachineCommands.cs";

    private static readonly string[] Runners = ["Call", "Execute", "Pin", "TryExecute", "TryPin"];

    /// <summary>Calls of the machine, outside the door, that run a command which takes memory away.</summary>
    public static IEnumerable<Finding> Bypasses(IEnumerable<SourceProject> projects)
    {
        foreach (var compilation in projects.Select(project => project.Compilation))
            foreach (var tree in compilation.SyntaxTrees)
            {
                var isServer = tree.FilePath.StartsWith("src/Server/", StringComparison.Ordinal);
                if (!isServer || tree.FilePath == Door) continue;
                var model = compilation.GetSemanticModel(tree);
                foreach (var call in tree.GetRoot().DescendantNodes().OfType<InvocationExpressionSyntax>())
                    if (Takes(model.GetSymbolInfo(call).Symbol as IMethodSymbol) is { } command)
                        yield return new Finding(
                            tree.FilePath, 1, $"runs {command} past the watches: send it through MachineCommands");
            }
    }

    /// <summary>The command that a method of the machine runs, if it takes memory away; else null.</summary>
    private static string? Takes(IMethodSymbol? method)
    {
        if (method?.ContainingType.Name != "Machine" || !Runners.Contains(method.Name)) return null;
        if (method.Name.EndsWith("Pin", StringComparison.Ordinal)) return "a pin";
        var command = method.TypeArguments.FirstOrDefault();
        return command?.AllInterfaces.Any(type => type.Name == "IInvalidating") == true ? command.Name : null;
    }
}
