using System.Diagnostics;
using Xunit;

namespace FramePin.Tests.Integration.Wire;

/// <summary>protos/check on a copy of the protos: what it finds, and what it says of itself.</summary>
public sealed class ProtoCheckTests : IDisposable
{
    private const string Pinning = "protos/framepin/v1/pinning.proto";

    private static readonly CancellationToken Cancelled = TestContext.Current.CancellationToken;

    private readonly DirectoryInfo _copy = Directory.CreateTempSubdirectory("framepin-protos");

    public void Dispose() => _copy.Delete(recursive: true);

    [Fact]
    public async Task The_wire_of_the_repository_holds()
    {
        await CopyAsync();
        Assert.Equal((0, "", ""), await CheckAsync());
    }

    [Theory]
    [InlineData("  bool write = 4;", "  bool write = 14;", "\"write\"")]
    [InlineData("  uint64 pages = 3;", "  string pages = 3;", "\"pages\"")]
    [InlineData("  rpc Convert(ConvertRequest) returns (ConvertResponse);", "", "\"Convert\"")]
    public async Task A_change_that_breaks_clients_is_found(string line, string changed, string named)
    {
        await CopyAsync();
        Change(line, changed);
        var (exitCode, output, errors) = await CheckAsync();
        Assert.Equal(1, exitCode);
        Assert.Contains(named, output, StringComparison.Ordinal);
        Assert.Contains("--renew", errors, StringComparison.Ordinal);
        // Where it is meant, the baseline is written anew.
        Assert.Equal((0, "", ""), await CheckAsync("--renew"));
        Assert.Equal((0, "", ""), await CheckAsync());
    }

    [Fact]
    public async Task A_field_without_a_comment_is_found()
    {
        await CopyAsync();
        Change("  // The device writes.\n", "");
        var (exitCode, output, errors) = await CheckAsync();
        Assert.Equal(1, exitCode);
        Assert.Contains("\"write\"", output, StringComparison.Ordinal);
        Assert.Equal("protos/check: buf lint found what buf.yaml does not allow\n", errors);
    }

    [Fact]
    public async Task A_new_field_breaks_nobody()
    {
        await CopyAsync();
        Change("  bool write = 4;", "  bool write = 4;\n  // Another one.\n  bool other = 100;");
        Assert.Equal((0, "", ""), await CheckAsync());
    }

    [Fact]
    public async Task Help_is_printed_and_wrong_arguments_are_refused_with_2()
    {
        await CopyAsync();
        var (exitCode, output, _) = await CheckAsync("--help");
        Assert.Equal(0, exitCode);
        Assert.StartsWith("usage: bash protos/check", output, StringComparison.Ordinal);
        Assert.Equal((2, "", "protos/check: unknown argument '--no', see --help\n"), await CheckAsync("--no"));
        Assert.Equal((2, "", "protos/check: one option at most, see --help\n"), await CheckAsync("--renew", "--help"));
    }

    [Theory]
    [InlineData("node")]
    [InlineData("npm")]
    public async Task A_missing_program_is_named_in_one_line(string missing)
    {
        await CopyAsync();
        var bin = _copy.CreateSubdirectory("bin");
        foreach (var tool in new[] { "bash", "dirname", "node", "npm" }.Where(tool => tool != missing))
            System.IO.File.CreateSymbolicLink(Path.Combine(bin.FullName, tool), Find(tool));
        var (exitCode, output, errors) = await RunAsync(bin.FullName, []);
        Assert.Equal((1, ""), (exitCode, output));
        Assert.StartsWith($"protos/check: {missing} is missing", errors, StringComparison.Ordinal);
        Assert.Equal(1, errors.Count(c => c == '\n'));
    }

    [Fact]
    public async Task A_missing_baseline_is_named()
    {
        await CopyAsync();
        System.IO.File.Delete(Path.Combine(_copy.FullName, "protos", "baseline.binpb"));
        var (exitCode, _, errors) = await CheckAsync();
        Assert.Equal(1, exitCode);
        Assert.Contains("protos/baseline.binpb is missing", errors, StringComparison.Ordinal);
    }

    private void Change(string text, string changed)
    {
        var file = Path.Combine(_copy.FullName, Pinning);
        var old = System.IO.File.ReadAllText(file);
        var at = old.IndexOf(text, StringComparison.Ordinal);
        Assert.True(at >= 0, $"{Pinning} has no '{text}'");
        System.IO.File.WriteAllText(file, old[..at] + changed + old[(at + text.Length)..]);
    }

    /// <summary>Copies what the check reads. The copy uses the program that the repository has installed.</summary>
    private async Task CopyAsync()
    {
        var root = Path.GetFullPath(Path.Combine(BufCurl.Check, "..", ".."));
        await BufCurl.InstallAsync("", Cancelled);
        System.IO.File.Copy(Path.Combine(root, "buf.yaml"), Path.Combine(_copy.FullName, "buf.yaml"));
        foreach (var file in Directory.EnumerateFiles(Path.Combine(root, "protos"), "*", SearchOption.AllDirectories))
        {
            var target = Path.Combine(_copy.FullName, Path.GetRelativePath(root, file));
            Directory.CreateDirectory(Path.GetDirectoryName(target)!);
            System.IO.File.Copy(file, target);
        }

        _copy.CreateSubdirectory("artifacts/tools");
        Directory.CreateSymbolicLink(
            Path.Combine(_copy.FullName, "artifacts", "tools", "buf"), Path.Combine(root, "artifacts", "tools", "buf"));
    }

    private Task<(int ExitCode, string Output, string Errors)> CheckAsync(params string[] arguments) =>
        RunAsync(Environment.GetEnvironmentVariable("PATH")!, arguments);

    private async Task<(int ExitCode, string Output, string Errors)> RunAsync(string path, string[] arguments)
    {
        var check = Path.Combine(_copy.FullName, "protos", "check");
        var start = new ProcessStartInfo(Find("bash"), [check, .. arguments])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        start.Environment["PATH"] = path;
        return await BufCurl.RunAsync(start, Cancelled);
    }

    private static string Find(string tool) =>
        Environment.GetEnvironmentVariable("PATH")!.Split(':').Select(folder => Path.Combine(folder, tool))
            .First(System.IO.File.Exists);
}
