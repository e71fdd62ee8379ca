using System.Diagnostics;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>framepind as a process that is expected to end by itself, or to say that it is ready.</summary>
internal sealed class DaemonRun : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private readonly Process _process;
    private readonly Task<string> _errors;

    private DaemonRun(Process process)
    {
        _process = process;
        _errors = process.StandardError.ReadToEndAsync();
    }

    public int Id => _process.Id;

    private static string Program => Path.Combine(
        AppContext.BaseDirectory.Replace(
            "FramePin.Tests.Integration", "FramePin.Server", StringComparison.Ordinal), "framepind");

    public static DaemonRun Start(
        string? folder, (string Name, string Value)[] environment, params string[] arguments) =>
        Start(folder, environment, Program, arguments);

    /// <summary>As another user. Takes root.</summary>
    public static DaemonRun StartAs(int user, params string[] arguments) =>
        StartUnder(["setpriv", $"--reuid={user}", $"--regid={user}", "--clear-groups"], [], arguments);

    /// <summary>By a program that executes the words behind its own.</summary>
    public static DaemonRun StartUnder(
        string[] program, (string Name, string Value)[] environment, params string[] arguments) =>
        Start(null, environment, program[0], [.. program[1..], Program, .. arguments]);

    private static DaemonRun Start(
        string? folder, (string Name, string Value)[] environment, string program, string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = folder ?? "",
        };
        foreach (var (name, value) in environment) start.Environment[name] = value;
        return new DaemonRun(Process.Start(start)!);
    }

    public static DaemonRun Start(params string[] arguments) => Start(null, [], arguments);

    /// <summary>Its lines until "framepind ready". Fails when it ends before.</summary>
    public async Task<List<string>> ReadyAsync()
    {
        var lines = new List<string>();
        while (await _process.StandardOutput.ReadLineAsync().WaitAsync(Patience) is { } line)
        {
            if (line == "framepind ready") return lines;
            lines.Add(line);
        }

        Assert.Fail($"framepind ended: {await _errors.WaitAsync(Patience)}");
        return lines;
    }

    /// <summary>The next line of its output; null at the end.</summary>
    public Task<string?> LineAsync() => _process.StandardOutput.ReadLineAsync().WaitAsync(Patience);

    /// <summary>Its exit code, the rest of its output, and its errors.</summary>
    public async Task<(int Code, string Output, string Errors)> EndAsync()
    {
        var output = await _process.StandardOutput.ReadToEndAsync().WaitAsync(Patience);
        await _process.WaitForExitAsync().WaitAsync(Patience);
        return (_process.ExitCode, output, await _errors.WaitAsync(Patience));
    }

    /// <summary>Asserts that it refused to start, in one line that holds a text.</summary>
    public async Task RefusedAsync(string text)
    {
        var (code, output, errors) = await EndAsync();
        Assert.Equal((2, ""), (code, output));
        var lines = errors.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(2, lines.Length);
        Assert.Contains(text, lines[0], StringComparison.Ordinal);
        Assert.Equal("see framepind --help", lines[1]);
    }

    public async Task SignalAsync(string signal)
    {
        using var kill = Process.Start("kill", [$"-{signal}", $"{_process.Id}"]);
        await kill.WaitForExitAsync();
    }

    public void Dispose()
    {
        if (!_process.HasExited) _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
    }
}
