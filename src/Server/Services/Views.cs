using FramePin.Core.Addressing;
using FramePin.Core.Inspection;
using FramePin.Server.Configuration;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.Server.Sessions;

namespace FramePin.Server.Services;

/// <summary>The resources as messages, each as it is at one moment.</summary>
internal static class Views
{
    /// <summary>A machine; null when it was deleted meanwhile.</summary>
    public static V1.Machine? Find(MachineHost host)
    {
        try
        {
            return Of(host);
        }
        catch (ObjectDisposedException)
        {
            return null;
        }
    }

    /// <summary>A machine.</summary>
    public static V1.Machine Of(MachineHost host)
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
                PageTableLevels = (uint)options.PageTableLevels,
                QuarantineBytesMax = host.QuarantineBytesMax,
                QuarantinePolicy = WireEnums.ToWire(host.KillsHolders),
            },
            Features = WireMapping.ToWire(options.Profile),
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

    /// <summary>An address space. NOT_FOUND when it has exited.</summary>
    public static V1.AddressSpace Of(MachineHost host, Named<SpaceId> space) =>
        Find(host, space) ?? throw Refusals.NotFound("ADDRESS_SPACE", space.Name);

    /// <summary>An address space; null when it has exited.</summary>
    public static V1.AddressSpace? Find(MachineHost host, Named<SpaceId> space)
    {
        if (host.Machine.Query<SpaceQuery, SpaceView?>(new(space.Thing)) is not { } view) return null;
        return new V1.AddressSpace
        {
            Name = space.Name,
            Layout = new V1.Layout
            {
                MmapBase = view.Layout.MmapBase,
                StartBrk = view.Layout.StartBrk,
                StackTop = view.Layout.StackTop,
                StackBytes = view.Layout.StackSize,
            },
            Task = new V1.TaskSpec
            {
                RlimitAs = view.Task.RlimitAddressSpace,
                RlimitData = view.Task.RlimitData,
                RlimitStack = view.Task.RlimitStack,
                RlimitMemlock = view.Task.RlimitMemlock,
                CanLockMemory = view.Task.CanLockMemory,
                CanMapLow = view.Task.CanMapLow,
                Pending = WireEnums.ToWire(view.Task.Pending),
            },
            Brk = view.Brk,
            MapCount = (uint)view.MapCount,
        };
    }

    /// <summary>A memory file. NOT_FOUND when it was deleted meanwhile.</summary>
    public static V1.File Of(MachineHost host, Named<FileId> file) =>
        Find(host, file) ?? throw Refusals.NotFound("FILE", file.Name);

    /// <summary>A memory file; null when it was deleted meanwhile.</summary>
    public static V1.File? Find(MachineHost host, Named<FileId> file)
    {
        if (host.Machine.Query<FileQuery, FileView?>(new(file.Thing)) is not { } view) return null;
        return new V1.File
        {
            Name = file.Name,
            Kind = WireEnums.ToWire(view.Kind),
            SizeBytes = view.Size,
            Path = view.Path,
            Device = view.DeviceNumber,
            Inode = view.Inode,
            HugePageBytes = view.Order == 0 ? 0 : PageGeometry.PageSize << view.Order,
            Mappings = (uint)view.Mappings,
            CachedPages = view.CachedFrames,
        };
    }

    /// <summary>A device. NOT_FOUND when it was deleted meanwhile.</summary>
    public static V1.Device Of(MachineHost host, Named<DeviceId> device) =>
        Find(host, device) ?? throw Refusals.NotFound("DEVICE", device.Name);

    /// <summary>A device; null when it was deleted meanwhile.</summary>
    public static V1.Device? Find(MachineHost host, Named<DeviceId> device)
    {
        if (host.Machine.Query<DeviceQuery, DeviceView?>(new(device.Thing)) is not { } view) return null;
        return new V1.Device
        {
            Name = device.Name,
            Mapping = WireEnums.ToWire(view.Mapping),
            Pages = view.Frames,
            Ram = view.IsRam,
            FirstPfn = view.First.Value,
            Path = view.Path,
            Mappings = (ulong)view.Mappings,
            Exports = (ulong)host.Vectors.ExportsOf(view.Id),
        };
    }

    /// <summary>A frame vector, with its frames if asked for. Takes the vector's gate.</summary>
    public static V1.FrameVector Of(MachineHost host, VectorRecord record, bool withRuns, DaemonLimits limits)
    {
        lock (record.Gate)
        {
            // A pin that is filling the vector owns its content.
            var vector = record.IsFilling || record.IsDestroyed ? null : record.Content;
            var origin = record.Origin;
            return new V1.FrameVector
            {
                Name = record.Name,
                Allocated = (ulong)record.Vector.Allocated,
                Frames = (ulong)(vector?.Count ?? 0),
                Kind = vector is null ? V1.FrameKind.Empty : WireFrames.KindOf(vector),
                GotRef = vector is { GotRef: true },
                AddressSpace = origin.Space?.Name ?? "",
                AddressSpaceExited = origin.Space is { } space && host.Spaces.Find(space.Thing) != space,
                Start = origin.Start,
                Write = origin.IsWrite,
                Lease = record.Lease is { } lease ? lease.Name : "",
                PinnedAt = WireTimes.ToWire(origin.PinnedAt),
                TraceId = origin.Trace == default ? "" : origin.Trace.TraceId.ToHexString(),
                SpanId = origin.Trace == default ? "" : origin.Trace.SpanId.ToHexString(),
                Epoch = (ulong)origin.Epoch,
                Device = record.Device?.Name ?? "",
                Runs = withRuns && vector is not null ? WireFrames.ToRuns(vector, limits) : null,
            };
        }
    }

    /// <summary>A lease.</summary>
    public static V1.Lease Of(Lease lease)
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
