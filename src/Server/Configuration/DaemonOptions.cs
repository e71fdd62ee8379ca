using FramePin.Core.Machines;

namespace FramePin.Server.Configuration;

/// <summary>How the daemon was started.</summary>
public sealed record DaemonOptions
{
    /// <summary>Path of the Unix socket; null for none.</summary>
    public string? SocketPath { get; init; }

    /// <summary>Loopback TCP port, 0 for one that is free; null for none.</summary>
    public int? TcpPort { get; init; }

    /// <summary>What "machines/default" is made of; null when there is none.</summary>
    public MachineOptions? DefaultMachine { get; init; } = new();

    /// <summary>Path of the socket for local memory; null for none.</summary>
    public string? AttachSocketPath { get; init; }

    /// <summary>Group whose members may attach, beside root and the daemon's own user; null for nobody else.</summary>
    public uint? AttachGroup { get; init; }

    /// <summary>The daemon's own user.</summary>
    public uint User { get; init; } = LocalUser.Effective;

    /// <summary>
    /// Makes the observer of a machine, by its id and options: told about every command. Null for none.
    /// </summary>
    public Func<string, MachineOptions, IMachineObserver?>? ObserverOf { get; init; }

    public DaemonLimits Limits { get; init; } = new();
}
