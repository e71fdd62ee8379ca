using FramePin.Core.Kernel;
using FramePin.Core.Pinning;

namespace FramePin.Core.Inspection;

/// <summary>Counters of a machine, as one consistent snapshot.</summary>
public readonly record struct StatisticsQuery : IQuery<MachineStatistics>
{
    public MachineStatistics Run(in Turn turn)
    {
        var kernel = turn.Kernel;
        var pins = PinTable.Of(kernel);
        return new MachineStatistics
        {
            Frames = kernel.Memory.Frames.Count,
            FreeFrames = kernel.Memory.Normal.FreeFrames + kernel.Memory.Movable.FreeFrames,
            AddressSpaces = kernel.Spaces.Count,
            Files = kernel.Files.Count,
            Devices = kernel.Devices.Count,
            Vectors = pins.Vectors().Count,
            PageTables = kernel.Tables.InUse,
            PinsAcquired = kernel.Memory.Statistics.Acquired,
            PinsReleased = kernel.Memory.Statistics.Released,
            Faults = kernel.FaultCount,
            Retries = kernel.RetryCount,
            QuarantinedFrames = kernel.Memory.Quarantine.Frames,
            Migrations = kernel.MigrationCount,
            Commands = kernel.CommandNumber,
            ParkedPins = pins.Parked.Count,
        };
    }
}

/// <summary>Counters of a machine at one moment. Frames and pages of 4 KiB.</summary>
public sealed record MachineStatistics
{
    public required ulong Frames { get; init; }

    public required ulong FreeFrames { get; init; }

    public required int AddressSpaces { get; init; }

    public required int Files { get; init; }

    public required int Devices { get; init; }

    public required int Vectors { get; init; }

    public required int PageTables { get; init; }

    public required long PinsAcquired { get; init; }

    public required long PinsReleased { get; init; }

    public required long Faults { get; init; }

    public required long Retries { get; init; }

    public required long Migrations { get; init; }

    /// <summary>Free frames kept from the allocator, since a process outside may have them mapped.</summary>
    public required ulong QuarantinedFrames { get; init; }

    public required long Commands { get; init; }

    public required int ParkedPins { get; init; }
}
