using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Inspection;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Vmas;
using FramePin.Server.Configuration;
using FramePin.Server.Machines;
using FramePin.Server.Sessions;

namespace FramePin.Server.Mapping;

/// <summary>
/// Messages to values of Core and back. The enumerations stand in <see cref="WireEnums"/>.
/// </summary>
internal static class WireMapping
{
    public static MachineOptions ToOptions(V1.MachineSpec? spec)
    {
        spec ??= new V1.MachineSpec();
        var profile = spec.Profile.Length == 0 ? KernelProfile.Default : KernelProfile.Find(spec.Profile)
            ?? throw Refusals.Bad(
                "spec.profile", "known profiles: " + string.Join(", ", KernelProfile.All.Select(p => p.Name)));
        var options = new MachineOptions
        {
            Profile = profile,
            Memory = spec.MemoryBytes == 0 ? new MachineOptions().Memory : spec.MemoryBytes,
            MovableMemory = spec.MovableBytes,
            HugePages2M = (int)Math.Min(spec.HugePages2M, int.MaxValue),
            HugePages1G = (int)Math.Min(spec.HugePages1G, int.MaxValue),
            Swap = spec.SwapBytes,
            TracksSoftDirty = spec.TracksSoftDirty,
            Thp = WireEnums.ToCore(spec.Thp, "spec.thp"),
        };
        WireEnums.Kills(spec.QuarantinePolicy, "spec.quarantine_policy");
        return options.Validate() is { } problem ? throw Refusals.Bad("spec", problem) : options;
    }

    public static V1.Machine ToWire(MachineHost host)
    {
        var options = host.Machine.Options;
        var statistics = host.Machine.Statistics();
        return new V1.Machine
        {
            Name = Names.Machine(host.Id),
            Spec = new V1.MachineSpec
            {
                Profile = options.Profile.Name,
                MemoryBytes = options.Memory,
                MovableBytes = options.MovableMemory,
                HugePages2M = (uint)options.HugePages2M,
                HugePages1G = (uint)options.HugePages1G,
                Thp = WireEnums.ToWire(options.Thp),
                SwapBytes = options.Swap,
                TracksSoftDirty = options.TracksSoftDirty,
                QuarantineBytesMax = host.QuarantineBytesMax,
                QuarantinePolicy = WireEnums.ToWire(host.KillsHolders),
            },
            Features = ToWire(options.Profile),
            Statistics = new V1.MachineStatistics
            {
                Frames = statistics.Frames,
                FreeFrames = statistics.FreeFrames,
                AddressSpaces = (uint)statistics.AddressSpaces,
                Files = (uint)statistics.Files,
                Devices = (uint)statistics.Devices,
                FrameVectors = (uint)statistics.Vectors,
                PageTables = (uint)statistics.PageTables,
                PinsAcquired = (ulong)statistics.PinsAcquired,
                PinsReleased = (ulong)statistics.PinsReleased,
                Faults = (ulong)statistics.Faults,
                QuarantinedFrames = statistics.QuarantinedFrames,
                Retries = (ulong)statistics.Retries,
                Migrations = (ulong)statistics.Migrations,
                Commands = (ulong)statistics.Commands,
                ParkedPins = (uint)statistics.ParkedPins,
            },
        };
    }

    /// <summary>The facts of a kernel by name (src/Core/Abi/KernelProfile.cs).</summary>
    public static V1.KernelFeatures ToWire(KernelProfile profile) => new()
    {
        HelperEra = WireEnums.ToWire(profile.Era),
        HelperFollowsPfns = profile.FollowsPfns,
        HelperPins = profile.HelperPins,
        HelperForces = profile.HelperForces,
        Vb2DirtiesAllPages = profile.Vb2DirtiesAllPages,
        Vb2RemovesBuffers = profile.Vb2RemovesBuffers,
        Vb2SharesAttachments = profile.Vb2SharesAttachments,
        HasOmapVout = profile.HasOmapVout,
        G2DUsesHelper = profile.G2dUsesHelper,
        LongTermUnsharesFilePages = profile.LongTermUnsharesFilePages,
        RefusesDirtyTrackedLongTerm = profile.RefusesDirtyTrackedLongTerm,
        RemoteLongTerm = profile.RemoteLongTerm,
        HasMseal = profile.HasMseal,
        HasDroppable = profile.HasDroppable,
        HasGuardRegions = profile.HasGuardRegions,
        HasUffdPoison = profile.HasUffdPoison,
        HasMdwe = profile.HasMdwe,
        DirectIoPins = profile.DirectIoPins,
        MovesSeveralAreas = profile.MovesSeveralAreas,
        AlignsHugeAnonymous = profile.AlignsHugeAnonymous,
        VersionCode = profile.VersionCode,
    };

    public static AddressSpaceLayout ToLayout(V1.Layout? layout)
    {
        var result = new AddressSpaceLayout();
        if (layout is null) return result;
        const ulong top = Core.Addressing.PageGeometry.TaskSize;
        foreach (var (field, value) in new[]
            { ("mmap_base", layout.MmapBase), ("start_brk", layout.StartBrk), ("stack_top", layout.StackTop) })
        {
            if (value > top || (value & 0xfff) != 0)
                throw Refusals.Bad($"layout.{field}", $"must be a multiple of 4096 up to 0x{top:x}");
        }

        if (layout.StackTop != 0 && (layout.StackBytes & 0xfff) != 0)
            throw Refusals.Bad("layout.stack_bytes", "must be a multiple of 4096");
        result = result with
        {
            MmapBase = layout.MmapBase == 0 ? result.MmapBase : layout.MmapBase,
            StartBrk = layout.StartBrk == 0 ? result.StartBrk : layout.StartBrk,
            StackTop = layout.StackTop,
            StackSize = layout.StackBytes == 0 ? result.StackSize : layout.StackBytes,
        };
        if (result.StackTop != 0 && result.StackSize >= result.StackTop)
            throw Refusals.Bad("layout.stack_bytes", "the stack would begin below address 0");
        return result;
    }

    public static TaskState ToTask(V1.TaskSpec? task)
    {
        var result = new TaskState();
        if (task is null) return result;
        return result with
        {
            RlimitAddressSpace = task.HasRlimitAs ? task.RlimitAs : result.RlimitAddressSpace,
            RlimitData = task.HasRlimitData ? task.RlimitData : result.RlimitData,
            RlimitStack = task.HasRlimitStack ? task.RlimitStack : result.RlimitStack,
            RlimitMemlock = task.HasRlimitMemlock ? task.RlimitMemlock : result.RlimitMemlock,
            CanLockMemory = task.CanLockMemory,
            CanMapLow = task.CanMapLow,
            Pending = WireEnums.ToCore(task.Pending, "task.pending"),
        };
    }

    public static V1.AddressSpace ToWire(MachineHost host, AddressSpace space) => new()
    {
        Name = host.SpaceName(space),
        Layout = new V1.Layout
        {
            MmapBase = space.Layout.MmapBase,
            StartBrk = space.Layout.StartBrk,
            StackTop = space.Layout.StackTop,
            StackBytes = space.Layout.StackSize,
        },
        Task = new V1.TaskSpec
        {
            RlimitAs = space.Task.RlimitAddressSpace,
            RlimitData = space.Task.RlimitData,
            RlimitStack = space.Task.RlimitStack,
            RlimitMemlock = space.Task.RlimitMemlock,
            CanLockMemory = space.Task.CanLockMemory,
            CanMapLow = space.Task.CanMapLow,
            Pending = WireEnums.ToWire(space.Task.Pending),
        },
        Brk = space.Brk,
        MapCount = (uint)space.MapCount,
    };

    public static V1.FrameKind KindOf(FrameVector vector) =>
        vector.Count == 0 ? V1.FrameKind.Empty : vector.IsPfns ? V1.FrameKind.Pfns : V1.FrameKind.Pages;

    /// <summary>The runs of a vector; counts stay out when every run is one frame.</summary>
    public static V1.FrameRuns ToRuns(FrameVector vector, DaemonLimits limits)
    {
        if (vector.RunCount > limits.ReplyRunsMax)
            throw Refusals.Limit("reply_runs_max", (ulong)limits.ReplyRunsMax, (ulong)vector.RunCount);
        var runs = new V1.FrameRuns();
        var source = vector.Runs;
        runs.FirstPfns.Capacity = source.Length;
        var isScattered = vector.Count == source.Length;
        foreach (var run in source) runs.FirstPfns.Add(run.First.Value);
        if (isScattered) return runs;
        runs.Counts.Capacity = source.Length;
        foreach (var run in source) runs.Counts.Add(run.Count);
        return runs;
    }

    public static V1.FrameRuns ToRuns(IReadOnlyList<FrameRun> source)
    {
        var runs = new V1.FrameRuns();
        foreach (var run in source)
        {
            runs.FirstPfns.Add(run.First.Value);
            runs.Counts.Add(run.Count);
        }

        return runs;
    }

    public static GupFlags PinFlags(bool write, bool force) =>
        (write ? GupFlags.Write : 0) | (force ? GupFlags.Force : 0);

    public static V1.FrameVector ToWire(MachineHost host, VectorRecord record, bool withRuns, DaemonLimits limits)
    {
        lock (record.Gate)
        {
            var vector = record.Vector;
            var origin = record.Origin;
            return new V1.FrameVector
            {
                Name = record.Name,
                Allocated = (ulong)vector.Allocated,
                Frames = (ulong)vector.Count,
                Kind = KindOf(vector),
                GotRef = vector.GotRef,
                AddressSpace = origin.Space is { } space ? host.SpaceName(space) : "",
                AddressSpaceExited = origin.Space is { Exited: true },
                Start = origin.Start,
                Write = origin.IsWrite,
                Lease = record.Lease is { } lease ? lease.Name : "",
                PinnedAt = WireTimes.ToWire(origin.PinnedAt),
                TraceId = origin.Trace == default ? "" : origin.Trace.TraceId.ToHexString(),
                SpanId = origin.Trace == default ? "" : origin.Trace.SpanId.ToHexString(),
                Epoch = (ulong)origin.Epoch,
                Runs = withRuns && !record.IsFilling ? ToRuns(vector, limits) : null,
            };
        }
    }

    public static V1.Lease ToWire(Lease lease)
    {
        var (vectors, pages) = lease.Count();
        return new V1.Lease
        {
            Name = lease.Name,
            Owner = lease.Owner,
            Ttl = WireTimes.ToWire(lease.Ttl),
            Left = WireTimes.ToWire(lease.Left),
            OpenedAt = WireTimes.ToWire(lease.OpenedAt),
            FrameVectors = (uint)vectors,
            PinnedPages = (ulong)pages,
            TraceId = lease.Trace == default ? "" : lease.Trace.TraceId.ToHexString(),
        };
    }
}
