using FramePin.Core.Abi;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Inspection;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Vmas;

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
            PageTableLevels = ToLevels(spec.PageTableLevels),
            Thp = WireEnums.ToCore(spec.Thp, "spec.thp"),
        };
        WireEnums.Kills(spec.QuarantinePolicy, "spec.quarantine_policy");
        return options.Validate() is { } problem ? throw Refusals.Bad("spec", problem) : options;
    }

    private static int ToLevels(uint levels) => levels switch
    {
        0 => new MachineOptions().PageTableLevels,
        4 or 5 => (int)levels,
        _ => throw Refusals.Bad("spec.page_table_levels", "must be 4 or 5"),
    };

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
        // exec puts its parts below the window of mmap, whatever the levels of page tables.
        const ulong top = Core.Addressing.PageGeometry.MapWindow;
        foreach (var (field, value) in new[]
            { ("mmap_base", layout.MmapBase), ("stack_top", layout.StackTop) })
        {
            if (value > top || (value & 0xfff) != 0)
                throw Refusals.Bad($"layout.{field}", $"must be a multiple of 4096 up to 0x{top:x}");
        }

        // PR_SET_MM_START_BRK takes any address, and old kernels began a heap behind the last byte of the data.
        if (layout.StartBrk > top) throw Refusals.Bad("layout.start_brk", $"must be at most 0x{top:x}");
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

    public static GupFlags PinFlags(bool write, bool force) =>
        (write ? GupFlags.Write : 0) | (force ? GupFlags.Force : 0);
}
