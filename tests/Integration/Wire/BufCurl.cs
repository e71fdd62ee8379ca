using System.Diagnostics;
using System.Text.Json;
using Xunit;

namespace FramePin.Tests.Integration.Wire;

/// <summary>
/// `buf curl`, which learns the wire from the daemon by reflection. protos/check installs the program where it is
/// missing.
/// </summary>
internal sealed class BufCurl
{
    private readonly string _program;
    private readonly string _socket;

    private BufCurl(string program, string socket) => (_program, _socket) = (program, socket);

    public static async Task<BufCurl> InstallAsync(string socket, CancellationToken cancelled)
    {
        var (exitCode, output, errors) = await RunAsync("bash", [Check, "--install"], cancelled);
        Assert.True(exitCode == 0, errors);
        return new BufCurl(output.Trim(), socket);
    }

    /// <summary>Calls a method by its full name and returns the JSON of its answer.</summary>
    public async Task<JsonElement> CallAsync(string method, object request, CancellationToken cancelled)
    {
        var (exitCode, output, errors) = await CurlAsync(method, request, cancelled);
        Assert.True(exitCode == 0, $"{method}: {errors}");
        return JsonDocument.Parse(output).RootElement.Clone();
    }

    /// <summary>Calls a method that is refused and returns the JSON of its google.rpc.Status.</summary>
    public async Task<JsonElement> RefusedAsync(string method, object request, CancellationToken cancelled)
    {
        var (exitCode, output, errors) = await CurlAsync(method, request, cancelled);
        Assert.True(exitCode != 0, $"{method} was not refused: {output}");
        return JsonDocument.Parse(errors).RootElement.Clone();
    }

    private Task<(int ExitCode, string Output, string Errors)> CurlAsync(
        string method, object request, CancellationToken cancelled) =>
        RunAsync(
            _program,
            ["curl", "--unix-socket", _socket, "--http2-prior-knowledge", "--protocol", "grpc",
                "--data", JsonSerializer.Serialize(request), $"http://localhost/{method}"], cancelled);

    /// <summary>Runs a program to its end, or until it is cancelled.</summary>
    internal static async Task<(int ExitCode, string Output, string Errors)> RunAsync(
        ProcessStartInfo start, CancellationToken cancelled)
    {
        using var process = Process.Start(start)!;
        try
        {
            var output = process.StandardOutput.ReadToEndAsync(cancelled);
            var errors = process.StandardError.ReadToEndAsync(cancelled);
            await process.WaitForExitAsync(cancelled);
            return (process.ExitCode, await output, await errors);
        }
        finally
        {
            if (!process.HasExited) process.Kill(entireProcessTree: true);
        }
    }

    private static Task<(int ExitCode, string Output, string Errors)> RunAsync(
        string program, string[] arguments, CancellationToken cancelled) =>
        RunAsync(
            new ProcessStartInfo(program, arguments)
            {
                RedirectStandardOutput = true,
                RedirectStandardError = true,
                // No buf.yaml there: what buf knows of the wire comes from the daemon.
                WorkingDirectory = Path.GetTempPath(),
            },
            cancelled);

    /// <summary>protos/check of the repository that the test was built in.</summary>
    internal static string Check { get; } = FindCheck();

    private static string FindCheck()
    {
        for (var folder = new DirectoryInfo(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            var check = Path.Combine(folder.FullName, "protos", "check");
            if (File.Exists(check)) return check;
        }

        throw new FileNotFoundException("no folder above the test has protos/check");
    }
}
