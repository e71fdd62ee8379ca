using System.Runtime.InteropServices;

namespace FramePin.Cli;

/// <summary>
/// SIGINT, SIGTERM and SIGHUP: the first one cancels the command, which then ends in order. A second one ends the
/// process at once.
/// </summary>
internal sealed class Signals : IDisposable
{
    /// <summary>A shell's exit code of a command that a signal ended: this and the signal's number.</summary>
    private const int Ended = 128;

    private readonly CancellationTokenSource _source = new();
    private readonly PosixSignalRegistration[] _registrations;
    private int _received;

    public Signals() => _registrations =
    [
        PosixSignalRegistration.Create(PosixSignal.SIGINT, context => Receive(context, 2)),
        PosixSignalRegistration.Create(PosixSignal.SIGTERM, context => Receive(context, 15)),
        PosixSignalRegistration.Create(PosixSignal.SIGHUP, context => Receive(context, 1)),
    ];

    /// <summary>Cancelled by the first signal.</summary>
    public CancellationToken Token => _source.Token;

    /// <summary>Exit code of a command that a signal ended; 0 when none came.</summary>
    public int ExitCode => _received == 0 ? 0 : Ended + _received;

    /// <summary>Cancels the command without a signal: what it writes goes nowhere.</summary>
    public void Cancel()
    {
        try
        {
            _source.Cancel();
        }
        catch (ObjectDisposedException)
        {
            // The command has ended.
        }
    }

    public void Dispose()
    {
        foreach (var registration in _registrations) registration.Dispose();
        _source.Dispose();
    }

    private void Receive(PosixSignalContext context, int number)
    {
        context.Cancel = true;
        if (Interlocked.CompareExchange(ref _received, number, 0) == 0) _source.Cancel();
        // What a command has on loan is given back at the process's exit.
        else Environment.Exit(Ended + number);
    }
}
