using System.Text.RegularExpressions;
using Microsoft.CodeAnalysis;

namespace FramePin.Tests.House;

/// <summary>Documents name files and members that exist, where they name them in backticks.</summary>
internal static partial class Documents
{
    private static readonly Lazy<IReadOnlyDictionary<string, IReadOnlySet<string>>> Members = new(ReadMembers);

    /// <summary>The members of every type of the solution by the type's name; a gRPC service has its calls.</summary>
    public static IReadOnlyDictionary<string, IReadOnlySet<string>> MembersOfSolution => Members.Value;

    public static IEnumerable<string> MissingFiles(string document, string text, IEnumerable<string> files)
    {
        var known = files.ToHashSet(StringComparer.Ordinal);
        foreach (Match match in NamedFile().Matches(text))
        {
            var path = match.Groups[1].Value.TrimEnd('/');
            if (!known.Contains(path) && !known.Any(file => file.StartsWith(path + "/", StringComparison.Ordinal)))
                yield return $"{document} names {path}";
        }
    }

    /// <summary>Code spans of the form Type.Member, or Type.Member(...), whose type or member is not there.</summary>
    public static IEnumerable<string> MissingMembers(
        string document, string text, IReadOnlyDictionary<string, IReadOnlySet<string>> members)
    {
        foreach (var (line, code) in Repository.CodeSpans(text))
        {
            var match = NamedMember().Match(code);
            if (!match.Success || match.Groups[1].Value == "FramePin" || match.Groups[2].Value is "md") continue;
            if (!members.TryGetValue(match.Groups[1].Value, out var known) || !known.Contains(match.Groups[2].Value))
                yield return $"{document}({line}) names {code}";
        }
    }

    private static IReadOnlyDictionary<string, IReadOnlySet<string>> ReadMembers()
    {
        var found = new Dictionary<string, IReadOnlySet<string>>(StringComparer.Ordinal);
        foreach (var project in SymbolUses.AllProjects)
            foreach (var type in Types(project.Compilation.Assembly.GlobalNamespace))
                foreach (var name in new[] { type.Name, Service(type.Name) }.Distinct())
                {
                    if (!found.TryGetValue(name, out var members))
                        found[name] = members = new HashSet<string>(StringComparer.Ordinal);
                    ((HashSet<string>)members).UnionWith(type.GetMembers().Select(member => member.Name));
                }

        return found;
    }

    /// <summary>The calls of a service are members of the class that its generated base stands for.</summary>
    private static string Service(string type) =>
        type.EndsWith("ServiceBase", StringComparison.Ordinal) ? type[..^"Base".Length] : type;

    private static IEnumerable<INamedTypeSymbol> Types(INamespaceOrTypeSymbol around)
    {
        foreach (var member in around.GetMembers().OfType<INamespaceOrTypeSymbol>())
        {
            if (member is INamedTypeSymbol type) yield return type;
            foreach (var inner in Types(member)) yield return inner;
        }
    }

    [GeneratedRegex(@"`((?:src|tests|protos|deploy|\.ci)/[^`\s]*|[A-Z]+\.md)`")]
    private static partial Regex NamedFile();

    [GeneratedRegex(@"^([A-Z][a-zA-Z0-9]+)\.([A-Za-z][a-zA-Z0-9]+)(?:\(.*\))?$")]
    private static partial Regex NamedMember();
}
