using System.IO.Compression;
using System.Reflection.Metadata;
using System.Reflection.PortableExecutable;
using System.Xml.Linq;
using Xunit;

namespace FramePin.Tests.Integration.Client;

/// <summary>
/// The packages are whole, and a stranger who has nothing else builds the documents' programs with them.
/// </summary>
[Collection("alone")]
public sealed class PackTests(PackRig rig) : IClassFixture<PackRig>
{
    private const string Library = "lib/net10.0/";

    [Theory]
    [InlineData("FramePin.Client")]
    [InlineData("FramePin.Drivers")]
    [InlineData("FramePin.Replay")]
    public void A_package_has_a_readme_a_licence_and_a_description(string id)
    {
        using var package = rig.Open(id, "nupkg");
        var metadata = Metadata(package, id);
        Assert.Equal("README.md", metadata["readme"]);
        Assert.Contains("```csharp", Text(package, "README.md"), StringComparison.Ordinal);
        Assert.Equal("MIT", metadata["license"]);
        Assert.Equal("The FramePin authors", metadata["authors"]);
        Assert.NotEqual("Package Description", metadata["description"]);
    }

    [Theory]
    [InlineData("FramePin.Client", "FramePin.Client", "T:FramePin.Client.FramePinClient")]
    [InlineData("FramePin.Client", "FramePin.Protos", "T:FramePin.V1.PinRequest")]
    [InlineData("FramePin.Client", "FramePin.Protos", "T:FramePin.V1.Local.PacketWriter")]
    [InlineData("FramePin.Drivers", "FramePin.Drivers", "T:FramePin.Drivers.DriverKernel")]
    [InlineData("FramePin.Replay", "FramePin.Replay", "T:FramePin.Replay.Replayer")]
    public void An_assembly_travels_with_its_comments_and_its_symbols(string id, string assembly, string documented)
    {
        using var package = rig.Open(id, "nupkg");
        var comments = XDocument.Parse(Text(package, $"{Library}{assembly}.xml"));
        Assert.Contains(
            comments.Descendants("member"),
            member => member.Attribute("name")!.Value == documented && member.Value.Trim().Length > 0);
        using var symbols = rig.Open(id, "snupkg");
        using var assemblyBytes = Bytes(package, $"{Library}{assembly}.dll");
        using var reader = new PEReader(assemblyBytes);
        var entry = reader.ReadDebugDirectory().Single(found => found.Type == DebugDirectoryEntryType.CodeView);
        using var provider = MetadataReaderProvider.FromPortablePdbStream(
            Bytes(symbols, $"{Library}{assembly}.pdb"));
        var wanted = reader.ReadCodeViewDebugDirectoryData(entry).Guid;
        Assert.Equal(wanted, new Guid([.. provider.GetMetadataReader().DebugMetadataHeader!.Id.Take(16)]));
    }

    [Fact]
    public void Messages_and_stubs_come_with_the_client_and_are_no_package()
    {
        foreach (var id in new[] { "FramePin.Client", "FramePin.Drivers", "FramePin.Replay" })
        {
            using var package = rig.Open(id, "nupkg");
            var assemblies = package.Entries.Select(entry => entry.FullName)
                .Where(name => name.EndsWith(".dll", StringComparison.Ordinal)).Order(StringComparer.Ordinal);
            string[] own = id == "FramePin.Client" ? [id, "FramePin.Protos"] : [id];
            Assert.Equal(own.Select(name => $"{Library}{name}.dll"), assemblies);
            var ours = Dependencies(package, id)
                .Where(found => found.Id.StartsWith("FramePin.", StringComparison.Ordinal));
            Assert.Equal(id == "FramePin.Client" ? [] : [("FramePin.Client", rig.Version("FramePin.Client"))], ours);
        }
    }

    [Fact]
    public async Task A_stranger_builds_the_programs_of_the_documents_from_the_packages_alone_and_runs_them()
    {
        await using var daemon = await DaemonProcess.StartAsync();
        var readme = await File.ReadAllTextAsync(
            Path.Combine(Examples.Root, "README.md"), TestContext.Current.CancellationToken);
        await rig.BuildAsync(
            ("Readme", "FramePin.Client", Examples.Read(readme, "csharp", daemon.Endpoint)),
            ("Client", "FramePin.Client", Program("FramePin.Client", daemon)),
            ("Drivers", "FramePin.Drivers", Program("FramePin.Drivers", daemon)),
            ("Replay", "FramePin.Replay", Program("FramePin.Replay", daemon)));
        var said = await rig.RunProgramAsync("Readme");
        Assert.StartsWith("16 pages are held as machines/default/frameVectors/", said[0], StringComparison.Ordinal);
        Assert.StartsWith("EFAULT, errno 14: ", said[1], StringComparison.Ordinal);
        Assert.Equal(2, said.Length);
        said = await rig.RunProgramAsync("Client");
        Assert.EndsWith(": 16 frames, Pfns", said[0], StringComparison.Ordinal);
        Assert.Contains(" under machines/default/leases/", said[1], StringComparison.Ordinal);
        Assert.Equal(["None: frame 0, 614400 bytes"], await rig.RunProgramAsync("Drivers"));
        said = await rig.RunProgramAsync("Replay");
        Assert.Equal(["2 of 2 return values", "2 of 2 lines of maps"], said[..2]);
        Assert.EndsWith(" pages pinned, 0 leaked", said[2], StringComparison.Ordinal);
    }

    [Fact]
    public async Task The_readmes_program_in_Python_runs()
    {
        var cancelled = TestContext.Current.CancellationToken;
        await using var daemon = await DaemonProcess.StartAsync();
        var readme = await File.ReadAllTextAsync(Path.Combine(Examples.Root, "README.md"), cancelled);
        using var stubs = await PythonStubs.MakeByAsync(Examples.Command(readme, "protoc"), "stubs", cancelled);
        using var process = stubs.Start("-c", Examples.Read(readme, "python", daemon.Endpoint));
        var printed = process.StandardOutput.ReadToEndAsync(cancelled);
        var errors = process.StandardError.ReadToEndAsync(cancelled);
        await process.WaitForExitAsync(cancelled).WaitAsync(TimeSpan.FromMinutes(1), cancelled);
        Assert.True(process.ExitCode == 0, $"python ended with {process.ExitCode}: {await errors}");
        Assert.StartsWith(
            "16 pages are held as machines/default/frameVectors/", await printed, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("```csharp\nA\n```\n```csharp\nB\n```\n")]
    [InlineData("```sh\nhttp://127.0.0.1:7461\n```\n")]
    [InlineData("```csharp\nno endpoint\n```\n")]
    public void A_planted_document_without_one_program_is_seen(string markdown) =>
        Assert.ThrowsAny<Xunit.Sdk.XunitException>(() => Examples.Read(markdown, "csharp", "unix:/x"));

    private string Program(string id, DaemonProcess daemon)
    {
        using var package = rig.Open(id, "nupkg");
        return Examples.Read(Text(package, "README.md"), "csharp", daemon.Endpoint);
    }

    private static Dictionary<string, string> Metadata(ZipArchive package, string id) =>
        XDocument.Parse(Text(package, $"{id}.nuspec")).Root!.Elements().Single().Elements()
            .ToDictionary(element => element.Name.LocalName, element => element.Value);

    private static IEnumerable<(string Id, string Version)> Dependencies(ZipArchive package, string id) =>
        XDocument.Parse(Text(package, $"{id}.nuspec")).Descendants()
            .Where(element => element.Name.LocalName == "dependency")
            .Select(element => (element.Attribute("id")!.Value, element.Attribute("version")!.Value));

    private static string Text(ZipArchive package, string name)
    {
        using var reader = new StreamReader(Bytes(package, name));
        return reader.ReadToEnd();
    }

    private static MemoryStream Bytes(ZipArchive package, string name)
    {
        var entry = package.GetEntry(name) ?? throw new InvalidDataException($"the package has no {name}");
        using var stream = entry.Open();
        var bytes = new MemoryStream();
        stream.CopyTo(bytes);
        bytes.Position = 0;
        return bytes;
    }
}
