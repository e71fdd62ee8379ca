using System.Diagnostics;
using FramePin.Core.Abi;
using FramePin.Core.Backing;
using FramePin.Core.Kernel;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using Google.Protobuf.Reflection;

namespace FramePin.Server.Mapping;

/// <summary>
/// The enumerations of the wire and those of Core, value by value. A value of the wire that has no meaning in its field
/// is refused with INVALID_ARGUMENT.
/// </summary>
/// <remarks>No mapping relies on the order of the values; a test compares both sides over all of them.</remarks>
internal static class WireEnums
{
    /// <summary>Transparent huge pages; unspecified is MADVISE.</summary>
    public static ThpMode ToCore(V1.ThpMode mode, string field) => mode switch
    {
        V1.ThpMode.Unspecified or V1.ThpMode.Madvise => ThpMode.MAdvise,
        V1.ThpMode.Never => ThpMode.Never,
        V1.ThpMode.Always => ThpMode.Always,
        _ => throw Unknown(mode, field),
    };

    public static V1.ThpMode ToWire(ThpMode mode) => mode switch
    {
        ThpMode.Never => V1.ThpMode.Never,
        ThpMode.MAdvise => V1.ThpMode.Madvise,
        ThpMode.Always => V1.ThpMode.Always,
        _ => throw new UnreachableException($"{mode}"),
    };

    /// <summary>Whether the largest holder is killed, and not fenced; unspecified is FENCE.</summary>
    public static bool Kills(V1.QuarantinePolicy policy, string field) => policy switch
    {
        V1.QuarantinePolicy.Unspecified or V1.QuarantinePolicy.Fence => false,
        V1.QuarantinePolicy.Kill => true,
        _ => throw Unknown(policy, field),
    };

    public static V1.QuarantinePolicy ToWire(bool kills) =>
        kills ? V1.QuarantinePolicy.Kill : V1.QuarantinePolicy.Fence;

    /// <summary>A task's pending signal; unspecified is none.</summary>
    public static PendingSignal ToCore(V1.PendingSignal signal, string field) => signal switch
    {
        V1.PendingSignal.Unspecified => PendingSignal.None,
        V1.PendingSignal.NonFatal => PendingSignal.NonFatal,
        V1.PendingSignal.Fatal => PendingSignal.Fatal,
        _ => throw Unknown(signal, field),
    };

    public static V1.PendingSignal ToWire(PendingSignal signal) => signal switch
    {
        PendingSignal.None => V1.PendingSignal.Unspecified,
        PendingSignal.NonFatal => V1.PendingSignal.NonFatal,
        PendingSignal.Fatal => V1.PendingSignal.Fatal,
        _ => throw new UnreachableException($"{signal}"),
    };

    public static DeviceMapping ToCore(V1.DeviceMapping mapping, string field) => mapping switch
    {
        V1.DeviceMapping.Pfnmap => DeviceMapping.PfnMap,
        V1.DeviceMapping.PfnmapLazy => DeviceMapping.PfnMapLazy,
        V1.DeviceMapping.IoPages => DeviceMapping.IoPages,
        V1.DeviceMapping.MixedPages => DeviceMapping.MixedPages,
        V1.DeviceMapping.MixedPfns => DeviceMapping.MixedPfns,
        V1.DeviceMapping.FaultPages => DeviceMapping.FaultPages,
        V1.DeviceMapping.P2PPages => DeviceMapping.P2PPages,
        V1.DeviceMapping.ServedPfns => DeviceMapping.ServedPfns,
        V1.DeviceMapping.ServedPages => DeviceMapping.ServedPages,
        _ => throw Unknown(mapping, field),
    };

    public static V1.DeviceMapping ToWire(DeviceMapping mapping) => mapping switch
    {
        DeviceMapping.PfnMap => V1.DeviceMapping.Pfnmap,
        DeviceMapping.PfnMapLazy => V1.DeviceMapping.PfnmapLazy,
        DeviceMapping.IoPages => V1.DeviceMapping.IoPages,
        DeviceMapping.MixedPages => V1.DeviceMapping.MixedPages,
        DeviceMapping.MixedPfns => V1.DeviceMapping.MixedPfns,
        DeviceMapping.FaultPages => V1.DeviceMapping.FaultPages,
        DeviceMapping.P2PPages => V1.DeviceMapping.P2PPages,
        DeviceMapping.ServedPfns => V1.DeviceMapping.ServedPfns,
        DeviceMapping.ServedPages => V1.DeviceMapping.ServedPages,
        _ => throw new UnreachableException($"{mapping}"),
    };

    public static FileKind ToCore(V1.FileKind kind, string field) => kind switch
    {
        V1.FileKind.Shmem => FileKind.Shmem,
        V1.FileKind.Disk => FileKind.Disk,
        V1.FileKind.Hugetlb => FileKind.HugeTlb,
        V1.FileKind.Secret => FileKind.Secret,
        V1.FileKind.Fsdax => FileKind.FsDax,
        _ => throw Unknown(kind, field),
    };

    public static V1.FileKind ToWire(FileKind kind) => kind switch
    {
        FileKind.Shmem => V1.FileKind.Shmem,
        FileKind.Disk => V1.FileKind.Disk,
        FileKind.HugeTlb => V1.FileKind.Hugetlb,
        FileKind.Secret => V1.FileKind.Secret,
        FileKind.FsDax => V1.FileKind.Fsdax,
        _ => throw new UnreachableException($"{kind}"),
    };

    /// <summary>Why a pin stopped; unspecified where it did not.</summary>
    public static V1.StopReason ToWire(StopReason reason) => reason switch
    {
        StopReason.None => V1.StopReason.Unspecified,
        StopReason.Hole => V1.StopReason.Hole,
        StopReason.PfnMapping => V1.StopReason.PfnMapping,
        StopReason.Permission => V1.StopReason.Permission,
        StopReason.DirtyTrackedFile => V1.StopReason.DirtyTrackedFile,
        StopReason.Secret => V1.StopReason.Secret,
        StopReason.FaultFailed => V1.StopReason.FaultFailed,
        StopReason.OutOfMemory => V1.StopReason.OutOfMemory,
        StopReason.Signal => V1.StopReason.Signal,
        StopReason.NotPresent => V1.StopReason.NotPresent,
        StopReason.NoStructPage => V1.StopReason.NoStructPage,
        StopReason.AddressLimit => V1.StopReason.AddressLimit,
        StopReason.MigrationFailed => V1.StopReason.MigrationFailed,
        StopReason.BadArguments => V1.StopReason.BadArguments,
        StopReason.MappingClass => V1.StopReason.MappingClass,
        StopReason.GuardRegion => V1.StopReason.GuardRegion,
        StopReason.FileEnd => V1.StopReason.FileEnd,
        StopReason.Poisoned => V1.StopReason.Poisoned,
        StopReason.HugePoolEmpty => V1.StopReason.HugePoolEmpty,
        StopReason.DirectAccess => V1.StopReason.DirectAccess,
        StopReason.PeerToPeer => V1.StopReason.PeerToPeer,
        StopReason.NotAnonymous => V1.StopReason.NotAnonymous,
        _ => throw new UnreachableException($"{reason}"),
    };

    public static GupCall ToCore(V1.GupFunction function, string field) => function switch
    {
        V1.GupFunction.GetUserPages => GupCall.GetUserPages,
        V1.GupFunction.PinUserPages => GupCall.PinUserPages,
        V1.GupFunction.GetUserPagesRemote => GupCall.GetUserPagesRemote,
        V1.GupFunction.PinUserPagesRemote => GupCall.PinUserPagesRemote,
        V1.GupFunction.GetUserPagesUnlocked => GupCall.GetUserPagesUnlocked,
        V1.GupFunction.PinUserPagesUnlocked => GupCall.PinUserPagesUnlocked,
        V1.GupFunction.GetUserPagesFast => GupCall.GetUserPagesFast,
        V1.GupFunction.PinUserPagesFast => GupCall.PinUserPagesFast,
        V1.GupFunction.GetUserPagesFastOnly => GupCall.GetUserPagesFastOnly,
        _ => throw Unknown(function, field),
    };

    public static ChoicePoint ToCore(V1.ChoicePoint point, string field) => point switch
    {
        V1.ChoicePoint.Fault => ChoicePoint.Fault,
        V1.ChoicePoint.Allocation => ChoicePoint.Allocation,
        V1.ChoicePoint.LockTake => ChoicePoint.LockTake,
        V1.ChoicePoint.Migration => ChoicePoint.Migration,
        V1.ChoicePoint.FastWalk => ChoicePoint.FastWalk,
        V1.ChoicePoint.LongTermCheck => ChoicePoint.LongTermCheck,
        _ => throw Unknown(point, field),
    };

    public static FaultAction ToCore(V1.FaultAction action, string field) => action switch
    {
        V1.FaultAction.Retry => FaultAction.Retry,
        V1.FaultAction.Park => FaultAction.Park,
        V1.FaultAction.Oom => FaultAction.Oom,
        V1.FaultAction.Sigbus => FaultAction.SigBus,
        V1.FaultAction.Sigsegv => FaultAction.SigSegv,
        V1.FaultAction.Hwpoison => FaultAction.HwPoison,
        V1.FaultAction.NeedsIo => FaultAction.NeedsIo,
        V1.FaultAction.Kill => FaultAction.Kill,
        V1.FaultAction.Signal => FaultAction.Signal,
        _ => throw Unknown(action, field),
    };

    /// <summary>A mapping's place in a process; unspecified is an ordinary one.</summary>
    public static InstalledKind ToCore(V1.MappingKind kind, string field) => kind switch
    {
        V1.MappingKind.Unspecified => InstalledKind.Ordinary,
        V1.MappingKind.Stack => InstalledKind.Stack,
        V1.MappingKind.Vdso => InstalledKind.Vdso,
        V1.MappingKind.Vvar => InstalledKind.Vvar,
        V1.MappingKind.VvarVclock => InstalledKind.VvarClock,
        V1.MappingKind.Vsyscall => InstalledKind.Vsyscall,
        _ => throw Unknown(kind, field),
    };

    /// <summary>What a handler answers to a fault of a device; null for an answer that only a range takes.</summary>
    public static FaultReply? ToCore(V1.FaultAnswerKind kind) => kind switch
    {
        V1.FaultAnswerKind.InsertPfn => FaultReply.InsertPfn,
        V1.FaultAnswerKind.Page => FaultReply.Page,
        V1.FaultAnswerKind.Sigbus => FaultReply.SigBus,
        V1.FaultAnswerKind.Oom => FaultReply.Oom,
        V1.FaultAnswerKind.Hwpoison => FaultReply.HwPoison,
        V1.FaultAnswerKind.Retry => FaultReply.Retry,
        _ => null,
    };

    /// <summary>How a file was opened; unspecified is for reading and writing.</summary>
    public static (bool ForRead, bool ForWrite) ToCore(V1.OpenMode mode, string field) => mode switch
    {
        V1.OpenMode.Unspecified or V1.OpenMode.ReadWrite => (true, true),
        V1.OpenMode.ReadOnly => (true, false),
        V1.OpenMode.WriteOnly => (false, true),
        _ => throw Unknown(mode, field),
    };

    public static V1.HelperEra ToWire(HelperEra era) => era switch
    {
        HelperEra.A0 => V1.HelperEra.WriteForce,
        HelperEra.A1 => V1.HelperEra.GupFlags,
        HelperEra.A2 => V1.HelperEra.Pins,
        HelperEra.B => V1.HelperEra.LongTerm,
        HelperEra.C => V1.HelperEra.PagesOnly,
        HelperEra.D => V1.HelperEra.WriteByArgument,
        _ => throw new UnreachableException($"{era}"),
    };

    /// <summary>
    /// The signal that a load or a store ends with: its Linux number, its name and its code. Number 0 is none.
    /// </summary>
    public static (uint Number, string Name, string Code) ToSignal(UserSignal signal) => signal switch
    {
        UserSignal.None => (0, "", ""),
        UserSignal.SigSegvMapErr => (11, "SIGSEGV", "SEGV_MAPERR"),
        UserSignal.SigSegvAccErr => (11, "SIGSEGV", "SEGV_ACCERR"),
        UserSignal.SigSegvNonCanonical => (11, "SIGSEGV", "SI_KERNEL"),
        UserSignal.SigSegvKey => (11, "SIGSEGV", "SEGV_PKUERR"),
        UserSignal.SigBus => (7, "SIGBUS", "BUS_ADRERR"),
        UserSignal.SigBusPoison => (7, "SIGBUS", "BUS_MCEERR_AR"),
        UserSignal.OutOfMemory => (9, "SIGKILL", "SI_KERNEL"),
        _ => throw new UnreachableException($"{signal} is no signal"),
    };

    /// <summary>Why memory is taken away.</summary>
    public static V1.InvalidationCause ToWire(TakeCause cause) => cause switch
    {
        TakeCause.Munmap => V1.InvalidationCause.Munmap,
        TakeCause.Mmap => V1.InvalidationCause.Mmap,
        TakeCause.Mremap => V1.InvalidationCause.Mremap,
        TakeCause.Mprotect => V1.InvalidationCause.Mprotect,
        TakeCause.Madvise => V1.InvalidationCause.Madvise,
        TakeCause.Brk => V1.InvalidationCause.Brk,
        TakeCause.Fork => V1.InvalidationCause.Fork,
        TakeCause.Exit => V1.InvalidationCause.Exit,
        TakeCause.Truncate => V1.InvalidationCause.Truncate,
        TakeCause.Migration => V1.InvalidationCause.Migration,
        TakeCause.Unshare => V1.InvalidationCause.Unshare,
        TakeCause.HugeTheft => V1.InvalidationCause.HugeTheft,
        TakeCause.WriteProtect => V1.InvalidationCause.WriteProtect,
        _ => throw new UnreachableException($"{cause}"),
    };

    /// <summary>
    /// The refusal of a value that is unspecified where it is required, or that this daemon does not know.
    /// </summary>
    private static Grpc.Core.RpcException Unknown<T>(T value, string field)
        where T : struct, Enum
    {
        var known = string.Join(", ", Enum.GetValues<T>().Select(OriginalName));
        return Refusals.Bad(field, $"{value:D} has no meaning here; the values are {known}");
    }

    private static string OriginalName<T>(T value)
        where T : struct, Enum =>
        typeof(T).GetField(value.ToString())?.GetCustomAttributes(typeof(OriginalNameAttribute), false)
            .OfType<OriginalNameAttribute>().FirstOrDefault()?.Name ?? value.ToString();
}
