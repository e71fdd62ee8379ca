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
        var start = new ProcessStartInfo(
            "protoc",
            [$"-I{protos}", $"-I{samples}", $"--python_out={stubs._folder.FullName}",
                $"--grpc_out={stubs._folder.FullName}", $"--plugin=protoc-gen-grpc={Plugin}", .. files])
        {
            RedirectStandardError = true,
        };
        using var process = Process.Start(start)!;
        var errors = await process.StandardError.ReadToEndAsync(cancelled);
        await process.WaitForExitAsync(cancelled);
        Assert.True(process.ExitCode == 0, $"protoc ended with {process.ExitCode}: {errors}");
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

    public void Dispose() => _folder.Delete(recursive: true);
}
