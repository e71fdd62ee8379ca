using System.Diagnostics;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>
/// Stubs for Python, made by protoc from the published protos and the samples' into a folder of their own, and programs
/// that use them.
/// </summary>
internal sealed class PythonStubs : IDisposable
{
    private const string Plugin = "/usr/bin/grpc_python_plugin";

    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("framepin-python");

    public static async Task<PythonStubs> MakeAsync(CancellationToken cancelled)
    {
        Assert.True(File.Exists(Plugin), "protobuf-compiler-grpc is missing: tests/run installs it");
        var stubs = new PythonStubs();
        var protos = Path.Combine(AppContext.BaseDirectory, "protos");
        var samples = Path.Combine(AppContext.BaseDirectory, "samples");
        string[] files = [.. Directory.GetFiles(Path.Combine(protos, "framepin", "v1"), "*.proto"),
            .. Directory.GetFiles(Path.Combine(protos, "google", "rpc"), "*.proto"),
            .. Directory.GetFiles(samples, "*.proto")];
        await RunAsync(
            new ProcessStartInfo(
                "protoc",
                [$"-I{protos}", $"-I{samples}", $"--python_out={stubs._folder.FullName}",
                    $"--grpc_out={stubs._folder.FullName}", $"--plugin=protoc-gen-grpc={Plugin}", .. files]),
            cancelled);
        return stubs;
    }

    /// <summary>Makes stubs by a command of a document, run where the document lies.</summary>
    /// <param name="command">A line for the shell.</param>
    /// <param name="target">The folder that the command names; a folder of the test takes its place.</param>
    /// <param name="cancelled">Gives the wait up.</param>
    public static async Task<PythonStubs> MakeByAsync(string command, string target, CancellationToken cancelled)
    {
        Assert.Contains($"={target} ", command, StringComparison.Ordinal);
        var stubs = new PythonStubs();
        var line = command.Replace($"={target} ", $"={stubs._folder.FullName} ", StringComparison.Ordinal);
        await RunAsync(
            new ProcessStartInfo("bash", ["-c", line]) { WorkingDirectory = Client.Examples.Root }, cancelled);
        return stubs;
    }

    public Process Start(string script, params string[] arguments)
    {
        var start = new ProcessStartInfo(
            "/usr/bin/python3", [script, .. arguments])
        { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["PYTHONPATH"] = _folder.FullName;
        return Process.Start(start)!;
    }

    private static async Task RunAsync(ProcessStartInfo start, CancellationToken cancelled)
    {
        start.RedirectStandardError = true;
        using var process = Process.Start(start)!;
        var errors = await process.StandardError.ReadToEndAsync(cancelled);
        await process.WaitForExitAsync(cancelled);
        Assert.True(process.ExitCode == 0, $"protoc ended with {process.ExitCode}: {errors}");
    }

    public void Dispose() => _folder.Delete(recursive: true);
}
