using System.Collections.Frozen;
using FramePin.Core.Abi;
using FramePin.Core.Access;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;

namespace FramePin.Core.Machines;

/// <summary>
/// Every command by number and name. A number is never given to another command: a log of the same version of the
/// format is read by later builds. A new command gets the next free number.
/// </summary>
public static class CommandTable
{
    private delegate void Replay(Machine machine, ref CommandReader fields);

    private sealed record Entry(string Name, Replay Replay);

    private static readonly FrozenDictionary<ushort, Entry> Entries;

    // A static constructor, and not an initializer: every number is known before any member is used.
#pragma warning disable CA1810
    static CommandTable() => Entries = Fill();
#pragma warning restore CA1810

    /// <summary>
    /// The name of a command, as the kernel's documentation or this project writes it; null for no command.
    /// </summary>
    public static string? NameOf(ushort kind) => Entries.TryGetValue(kind, out var entry) ? entry.Name : null;

    /// <summary>The numbers in use.</summary>
    public static IEnumerable<ushort> Kinds => Entries.Keys.Order();

    /// <summary>Number of a command's type.</summary>
    internal static ushort KindOf<TCommand>()
        where TCommand : allows ref struct =>
        Kind<TCommand>.Number != 0
            ? Kind<TCommand>.Number
            : throw new InvalidOperationException($"{typeof(TCommand).Name} is not registered in CommandTable");

    /// <summary>
    /// Reads a command from its fields and runs it. <see cref="InvalidDataException"/> for other bytes.
    /// </summary>
    internal static void Run(Machine machine, ushort kind, ReadOnlySpan<byte> fields)
    {
        if (!Entries.TryGetValue(kind, out var entry)) throw new InvalidDataException($"no command has number {kind}");
        var reader = new CommandReader(fields);
        entry.Replay(machine, ref reader);
        if (reader.Left != 0) throw new InvalidDataException($"{entry.Name} has {reader.Left} bytes too many");
    }

    private static FrozenDictionary<ushort, Entry> Fill()
    {
        var entries = new Dictionary<ushort, Entry>();
        Add<DrainCall, SyscallResult>(1, "drain");
        Add<AddFaultRuleCall, SyscallResult>(2, "add_fault_rule");
        Add<ClearFaultPlanCall, SyscallResult>(3, "clear_fault_plan");
        Add<CreateSpaceCall, SyscallResult>(4, "create_space");
        Add<ForkCall, SyscallResult>(5, "fork");
        Add<ExitCall, SyscallResult>(6, "exit");
        Add<SetTaskCall, SyscallResult>(7, "set_task");
        Add<SetMdweCall, SyscallResult>(8, "set_mdwe");
        Add<InstallMappingCall, SyscallResult>(9, "install_mapping");
        Add<MmapCall, SyscallResult>(10, "mmap");
        Add<MunmapCall, SyscallResult>(11, "munmap");
        Add<MprotectCall, SyscallResult>(12, "mprotect");
        Add<MremapCall, SyscallResult>(13, "mremap");
        Add<MadviseCall, SyscallResult>(14, "madvise");
        Add<MlockCall, SyscallResult>(15, "mlock2");
        Add<MunlockCall, SyscallResult>(16, "munlock");
        Add<MlockAllCall, SyscallResult>(17, "mlockall");
        Add<MunlockAllCall, SyscallResult>(18, "munlockall");
        Add<BrkCall, SyscallResult>(19, "brk");
        Add<MsealCall, SyscallResult>(20, "mseal");
        Add<MsyncCall, SyscallResult>(21, "msync");
        Add<ClearSoftDirtyCall, SyscallResult>(22, "clear_refs");
        Add<TouchCall, AccessResult>(23, "touch");
        Add<LoadCall, AccessResult>(24, "load");
        Add<StoreCall, AccessResult>(25, "store");
        Add<CreateFileCall, SyscallResult>(26, "create_file");
        Add<FsyncCall, SyscallResult>(27, "fsync");
        Add<ChmodCall, SyscallResult>(28, "chmod");
        Add<UnlinkCall, SyscallResult>(29, "unlink");
        Add<TruncateCall, SyscallResult>(30, "ftruncate");
        Add<PunchHoleCall, SyscallResult>(31, "fallocate");
        Add<SealWriteCall, SyscallResult>(32, "seal_write");
        Add<ReadFileCall, SyscallResult>(33, "pread");
        Add<WriteFileCall, WriteFileResult>(34, "pwrite");
        Add<CreateDeviceCall, SyscallResult>(35, "create_device");
        Add<DestroyDeviceCall, SyscallResult>(36, "destroy_device");
        Add<CreateUffdCall, SyscallResult>(37, "userfaultfd");
        Add<RegisterUffdCall, SyscallResult>(38, "uffdio_register");
        Add<UnregisterUffdCall, SyscallResult>(39, "uffdio_unregister");
        Add<ProtectUffdCall, SyscallResult>(40, "uffdio_writeprotect");
        Add<FillUffdCall, SyscallResult>(41, "uffdio_copy");
        Add<PoisonUffdCall, SyscallResult>(42, "uffdio_poison");
        Add<ServeUffdCall, SyscallResult>(43, "serve_uffd");
        Add<CloseUffdCall, SyscallResult>(44, "close_uffd");
        Add<ServeDeviceCall, SyscallResult>(45, "serve_device");
        Add<StopServingCall, SyscallResult>(46, "stop_serving");
        Add<AnswerFaultCall, SyscallResult>(47, "answer_fault");
        Add<WakeFaultCall, SyscallResult>(48, "uffdio_wake");
        Add<CompactCall, SyscallResult>(49, "compact_memory");
        Add<PinCall, PinOutcome>(50, "pin");
        Add<ResumePinCall, PinOutcome?>(51, "resume_pin");
        Add<ExportDeviceCall, SyscallResult>(52, "export_device");
        Add<HoldFramesCall, FrameHold>(53, "hold_frames");
        Add<HoldRangeCall, HoldRangeResult>(54, "hold_range");
        Add<QuarantineVectorCall, SyscallResult>(55, "quarantine_vector");
        Add<ReleaseHoldCall, SyscallResult>(56, "release_hold");
        Add<FutexWakeOpCall, SyscallResult>(57, "futex_wake_op");
        Add<FixupUserFaultCall, SyscallResult>(58, "fixup_user_fault");
        Add<GrowStackCall, SyscallResult>(59, "grow_stack");
        Add<AccessRawCall, SyscallResult>(60, "access_phys");
        Add<SetupRingCall, SetupRingResult>(61, "io_uring_setup");
        Add<ChargeRingCall, SyscallResult>(62, "charge_ring");
        Add<CloseRingsCall, IReadOnlyList<Ring>>(63, "close_rings");
        Add<RemapFilePagesCall, SyscallResult>(64, "remap_file_pages");
        Add<ShareVectorCall, SyscallResult>(65, "share_vector");
        Add<ResumeCall, SyscallResult>(66, "resume_call");
        Add<CopyForkedCall, SyscallResult>(67, "copy_forked");
        return entries.ToFrozenDictionary();

        void Add<TCommand, TResult>(ushort number, string name)
            where TCommand : ICommand<TCommand, TResult>, allows ref struct =>
            entries.Add(Kind<TCommand>.Number = number, new Entry(name, RunOne<TCommand, TResult>));
    }

    private static void RunOne<TCommand, TResult>(Machine machine, ref CommandReader fields)
        where TCommand : ICommand<TCommand, TResult>, allows ref struct =>
        machine.Execute<TCommand, TResult>(TCommand.Read(ref fields));

    private static class Kind<TCommand>
        where TCommand : allows ref struct
    {
        public static ushort Number;
    }
}
