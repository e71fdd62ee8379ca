using System.Diagnostics;

namespace FramePin.Tests.Integration.Commands;

/// <summary>A run of the command framepin as a process of its own, to its end.</summary>
/// <param name="ExitCode">Its exit code.</param>
/// <param name="Out">Its standard output.</param>
/// <param name="Error">Its standard error.</param>
internal sealed record CommandRun(int ExitCode, string Out, string Error)
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(2);

    /// <summary>Runs a command at a daemon, with standard input from a file or empty.</summary>
    public static async Task<CommandRun> OfAsync(
        string? endpoint, string[] arguments, CancellationToken cancelled, string? folder = null, string? input = null)
    {
        using var process = Start(endpoint, arguments, folder);
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancelled);
        patience.CancelAfter(Patience);
        try
        {
            var said = process.StandardOutput.ReadToEndAsync(patience.Token);
            var complained = process.StandardError.ReadToEndAsync(patience.Token);
            if (input is not null) await process.StandardInput.WriteAsync(input.AsMemory(), patience.Token);
            process.StandardInput.Close();
            await process.WaitForExitAsync(patience.Token);
            return new CommandRun(process.ExitCode, await said, await complained);
        }
        finally
        {
            if (!process.HasExited) process.Kill(entireProcessTree: true);
        }
    }

    /// <summary>Path of the command.</summary>
    public static string Program => Path.Combine(
        AppContext.BaseDirectory.Replace("FramePin.Tests.Integration", "FramePin.Cli", StringComparison.Ordinal),
        "framepin");

    /// <summary>Starts a command; the caller ends it.</summary>
    public static Process Start(string? endpoint, string[] arguments, string? folder = null)
    {
        var start = new ProcessStartInfo(Program, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = folder ?? "",
        };
        if (endpoint is not null) start.Environment["FRAMEPIN_ENDPOINT"] = endpoint;
        else start.Environment.Remove("FRAMEPIN_ENDPOINT");
        return Process.Start(start)!;
    }

    /// <summary>Ends a command by a signal, such as "TERM". Returns how it ended.</summary>
    public static async Task<CommandRun> EndAsync(Process process, string signal, CancellationToken cancelled)
    {
        using (var kill = Process.Start("kill", [$"-{signal}", $"{process.Id}"]))
            await kill.WaitForExitAsync(cancelled);
        var said = process.StandardOutput.ReadToEndAsync(cancelled);
        var complained = process.StandardError.ReadToEndAsync(cancelled);
        await process.WaitForExitAsync(cancelled);
        return new CommandRun(process.ExitCode, await said, await complained);
    }
}
