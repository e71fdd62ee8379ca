using System.Diagnostics;
using System.Globalization;

namespace FramePin.Tests.Integration;

/// <summary>framepind as a process of its own, ended by its id when the test is over.</summary>
internal sealed class DaemonProcess : IAsyncDisposable
{
    private readonly Process _process;

    private DaemonProcess(Process process, string socket)
    {
        _process = process;
        Socket = socket;
    }

    public string Socket { get; }

    public int Id => _process.Id;

    public string Endpoint => $"unix:{Socket}";

    /// <summary>Starts it and waits until it says that it is ready.</summary>
    public static async Task<DaemonProcess> StartAsync(params (string Name, string Value)[] environment)
    {
        var socket = Path.Combine(Path.GetTempPath(), $"framepin-{Guid.NewGuid():N}.sock");
        var program = Path.Combine(
            AppContext.BaseDirectory.Replace(
                "FramePin.Tests.Integration", "FramePin.Server", StringComparison.Ordinal), "framepind");
        string[] arguments = ["--socket", socket, "--attach-socket", socket + ".attach", "--default-profile", "6.18"];
        var start = new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true };
        foreach (var (name, value) in environment) start.Environment[name] = value;
        var process = Process.Start(start)!;
        while (await process.StandardOutput.ReadLineAsync() is { } line)
            if (line == "framepind ready") return new DaemonProcess(process, socket);
        throw new InvalidOperationException($"framepind ended with {process.ExitCode} before it was ready");
    }

    /// <summary>The framepin command, at this daemon, as a process of its own; what it prints can be read.</summary>
    public Process StartCommand(params string[] arguments)
    {
        var program = Path.Combine(
            AppContext.BaseDirectory.Replace(
                "FramePin.Tests.Integration", "FramePin.Cli", StringComparison.Ordinal), "framepin");
        var start = new ProcessStartInfo(program,
            [.. arguments, "--endpoint", Endpoint])
        { RedirectStandardOutput = true, RedirectStandardError = true };
        return Process.Start(start)!;
    }

    public void Terminate() =>
        Process.Start("kill", ["-TERM", _process.Id.ToString(CultureInfo.InvariantCulture)]).WaitForExit();

    public async Task<int> ExitCodeAsync(CancellationToken cancelled)
    {
        await _process.WaitForExitAsync(cancelled);
        return _process.ExitCode;
    }

    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited) _process.Kill();
        await _process.WaitForExitAsync();
        _process.Dispose();
        // One that was killed could not do so itself.
        foreach (var suffix in new[] { "", ".attach", ".calls" }) File.Delete(Socket + suffix);
    }
}
