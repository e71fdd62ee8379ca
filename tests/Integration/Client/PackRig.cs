using System.Diagnostics;
using System.IO.Compression;
using Xunit;

namespace FramePin.Tests.Integration.Client;

/// <summary>Builds of whole projects take every core: nothing that waits for a signal runs beside them.</summary>
[CollectionDefinition("alone", DisableParallelization = true)]
public sealed class Alone;

/// <summary>
/// The three packages, packed from what the build has made, in a folder of their own. Strangers' projects lie in that
/// folder too: no setting of the repository reaches them. They restore from the three packages and from what the
/// machine's package folder holds, into a package folder of their own, and so use no network and no older package.
/// </summary>
public sealed class PackRig : IAsyncLifetime
{
    /// <summary>Time for one run of dotnet, on a machine that has others to do.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(4);

    private static readonly (string Id, string Project)[] Projects =
    [
        ("FramePin.Client", "src/Client/Library"), ("FramePin.Drivers", "src/Client/Drivers"),
        ("FramePin.Replay", "src/Client/Replay"),
    ];

    private readonly string _folder = Directory.CreateTempSubdirectory("framepin-packages-").FullName;

    private string Feed => Path.Combine(_folder, "feed");

    /// <summary>The configuration that this test was built in, and so the packages' assemblies too.</summary>
    private static string Configuration { get; } =
        Path.GetFileName(Path.TrimEndingDirectorySeparator(AppContext.BaseDirectory));

    public async ValueTask InitializeAsync()
    {
        foreach (var (_, project) in Projects)
            await RunAsync(
                Examples.Root, "dotnet", "pack", project, "-c", Configuration, "--no-build", "-o", Feed,
                $"-p:NuspecOutputPath={Path.Combine(_folder, "nuspec")}", "-nologo", "-v", "quiet",
                "-nodeReuse:false");
        var said = await RunAsync(Examples.Root, "dotnet", "nuget", "locals", "global-packages", "--list");
        var machine = said[(said.IndexOf(':', StringComparison.Ordinal) + 1)..].Trim();
        Write("nuget.config", $"""
            <configuration>
              <packageSources>
                <clear />
                <add key="packed" value="{Feed}" />
                <add key="machine" value="{machine}" />
              </packageSources>
              <packageSourceMapping>
                <packageSource key="packed"><package pattern="FramePin.*" /></packageSource>
                <packageSource key="machine"><package pattern="*" /></packageSource>
              </packageSourceMapping>
            </configuration>
            """);
        foreach (var name in new[] { "Directory.Build.props", "Directory.Build.targets", "Directory.Packages.props" })
            Write(name, "<Project />");
    }

    public ValueTask DisposeAsync()
    {
        Directory.Delete(_folder, recursive: true);
        return ValueTask.CompletedTask;
    }

    /// <summary>Opens a package: "nupkg", or "snupkg" for its symbols.</summary>
    public ZipArchive Open(string id, string extension) =>
        ZipFile.OpenRead(Path.Combine(Feed, $"{id}.{Version(id)}.{extension}"));

    /// <summary>The version that a package has by its file's name.</summary>
    public string Version(string id) =>
        Path.GetFileNameWithoutExtension(Directory.GetFiles(Feed, $"{id}.*.nupkg").Single())[(id.Length + 1)..];

    /// <summary>Builds programs against the packages, each with one package as its only reference.</summary>
    public Task BuildAsync(params (string Name, string Package, string Program)[] strangers)
    {
        foreach (var (name, package, program) in strangers)
        {
            Write($"{name}/Program.cs", program);
            Write($"{name}/{name}.csproj", $"""
                <Project Sdk="Microsoft.NET.Sdk">
                  <PropertyGroup>
                    <OutputType>Exe</OutputType>
                    <TargetFramework>net10.0</TargetFramework>
                    <Nullable>enable</Nullable>
                    <ImplicitUsings>enable</ImplicitUsings>
                    <TreatWarningsAsErrors>true</TreatWarningsAsErrors>
                    <NuGetAudit>false</NuGetAudit>
                    <UseAppHost>false</UseAppHost>
                  </PropertyGroup>
                  <ItemGroup>
                    <PackageReference Include="{package}" Version="[{Version(package)}]" />
                  </ItemGroup>
                </Project>
                """);
        }

        var projects = strangers.Select(stranger => $"""<Project Path="{stranger.Name}/{stranger.Name}.csproj" />""");
        Write("strangers.slnx", $"<Solution>{string.Concat(projects)}</Solution>");
        return RunAsync(
            _folder, "dotnet", "build", "strangers.slnx", "-c", "Release", "-nologo", "-v", "quiet",
            "-nodeReuse:false", "-p:UseSharedCompilation=false");
    }

    /// <summary>Runs a program that was built. Returns the lines that it printed.</summary>
    public async Task<string[]> RunProgramAsync(string name) =>
        (await RunAsync(_folder, "dotnet", Path.Combine(name, "bin/Release/net10.0", $"{name}.dll")))
        .Split('\n', StringSplitOptions.RemoveEmptyEntries);

    /// <summary>Runs a program to its end, which has to be a good one. Returns what it printed.</summary>
    private async Task<string> RunAsync(string folder, string program, params string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            WorkingDirectory = folder,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        if (folder == _folder) start.Environment["NUGET_PACKAGES"] = Path.Combine(_folder, "packages");
        var text = $"{program} {string.Join(' ', arguments)}";
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
        patience.CancelAfter(Patience);
        using var process = Process.Start(start)!;
        try
        {
            var said = process.StandardOutput.ReadToEndAsync(patience.Token);
            var complained = process.StandardError.ReadToEndAsync(patience.Token);
            await process.WaitForExitAsync(patience.Token);
            Assert.True(process.ExitCode == 0, $"{text}: {process.ExitCode}\n{await said}{await complained}");
            return await said;
        }
        catch (OperationCanceledException) when (!TestContext.Current.CancellationToken.IsCancellationRequested)
        {
            throw new TimeoutException($"{text}: no end after {Patience}");
        }
        finally
        {
            if (!process.HasExited) process.Kill(entireProcessTree: true);
        }
    }

    private void Write(string file, string text)
    {
        var path = Path.Combine(_folder, file);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        File.WriteAllText(path, text);
    }
}
