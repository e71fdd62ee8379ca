using System.Xml.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.Text;

namespace FramePin.Tests.House;

/// <summary>One project of the solution, compiled from its sources so that symbols can be asked for.</summary>
internal sealed class SourceProject
{
    /// <summary>The global usings of a project whose build output is not there (the SDK's own list).</summary>
    private const string DefaultUsings = """
        global using System; global using System.Collections.Generic; global using System.IO; global using System.Linq;
        global using System.Net.Http; global using System.Threading; global using System.Threading.Tasks;
        """;

    private static readonly CSharpParseOptions ParseOptions =
        new(LanguageVersion.Latest, DocumentationMode.Parse, preprocessorSymbols: ["DEBUG"]);

    private static readonly IReadOnlyList<MetadataReference> Platform =
    [
        .. ((string)AppContext.GetData("TRUSTED_PLATFORM_ASSEMBLIES")!).Split(Path.PathSeparator)
            .Where(path => !Path.GetFileName(path).StartsWith("FramePin.", StringComparison.Ordinal) &&
                Path.GetFileName(path) is not ("framepin.dll" or "framepind.dll" or "dma-engine.dll"))
            .Select(path => MetadataReference.CreateFromFile(path)),
    ];

    private SourceProject(string file, CSharpCompilation compilation)
    {
        File = file;
        Compilation = compilation;
    }

    /// <summary>The project file, relative to the root.</summary>
    public string File { get; }

    /// <summary>Trees of hand-written files have their path relative to the root; generated ones have none.</summary>
    public CSharpCompilation Compilation { get; }

    /// <summary>Members that a package promises: nobody inside has to call them.</summary>
    public bool IsPackage =>
        Array.Exists(RoomOrder.Packages, folder => File.StartsWith(folder, StringComparison.Ordinal));

    /// <summary>All projects of the solution, those that others reference first.</summary>
    public static IReadOnlyList<SourceProject> LoadAll()
    {
        var files = XDocument.Parse(Repository.Read("FramePin.slnx")).Descendants("Project")
            .Select(project => project.Attribute("Path")!.Value).ToList();
        var loaded = new Dictionary<string, SourceProject>(StringComparer.Ordinal);
        foreach (var file in files) Load(file, files, loaded);
        return [.. loaded.Values];
    }

    /// <summary>A project that exists only in a test: its files by path.</summary>
    public static SourceProject Planted(string file, params (string Path, string Text)[] sources) =>
        new(file, Compile(file, sources.Select(source => Parse(source.Text, source.Path)), []));

    private static SourceProject Load(string file, List<string> all, Dictionary<string, SourceProject> loaded)
    {
        if (loaded.TryGetValue(file, out var known)) return known;
        var folder = Path.GetDirectoryName(file)!;
        var references = XDocument.Parse(Repository.Read(file)).Descendants("ProjectReference")
            .Where(reference => reference.Attribute("ReferenceOutputAssembly")?.Value != "false")
            .Select(reference => reference.Attribute("Include")!.Value)
            .Select(path => Path.GetFullPath(Path.Combine(Repository.Root, folder, path)))
            .Select(path => Load(Path.GetRelativePath(Repository.Root, path), all, loaded))
            .SelectMany(project => project.Compilation.References.OfType<CompilationReference>()
                .Append(project.Compilation.ToMetadataReference()))
            .DistinctBy(reference => reference.Compilation.AssemblyName);
        var nested = all.Select(other => Path.GetDirectoryName(other) + "/")
            .Where(other => other != folder + "/" && other.StartsWith(folder + "/", StringComparison.Ordinal)).ToList();
        var trees = Repository.FilesOf(".cs")
            .Where(source => source.StartsWith(folder + "/", StringComparison.Ordinal))
            .Where(source => !nested.Exists(other => source.StartsWith(other, StringComparison.Ordinal)))
            .Select(source => Parse(Repository.Read(source), source)).Concat(Generated(file));
        return loaded[file] = new SourceProject(file, Compile(file, trees, references));
    }

    private static CSharpCompilation Compile(
        string file, IEnumerable<SyntaxTree> trees, IEnumerable<MetadataReference> references)
    {
        var options = new CSharpCompilationOptions(
            OutputKind.DynamicallyLinkedLibrary, allowUnsafe: true,
            nullableContextOptions: NullableContextOptions.Enable);
        return CSharpCompilation.Create(
            Path.GetFileNameWithoutExtension(file), trees, Platform.Concat(references), options);
    }

    /// <summary>
    /// Sources that the build wrote for the compiler: global usings, friends of the assembly, messages of protos.
    /// </summary>
    private static IEnumerable<SyntaxTree> Generated(string file)
    {
        var configuration = Path.GetFileName(Path.TrimEndingDirectorySeparator(AppContext.BaseDirectory));
        var folder = Path.Combine(
            Repository.Root, "artifacts/obj", Path.GetFileNameWithoutExtension(file), configuration);
        var isBuilt = Directory.Exists(folder);
        if (isBuilt)
            foreach (var source in Directory.EnumerateFiles(folder, "*.cs", SearchOption.AllDirectories))
                yield return Parse(System.IO.File.ReadAllText(source), "");
        if (!isBuilt) yield return Parse(DefaultUsings, "");
    }

    private static SyntaxTree Parse(string text, string path) =>
        CSharpSyntaxTree.ParseText(SourceText.From(text, System.Text.Encoding.UTF8), ParseOptions, path);
}
