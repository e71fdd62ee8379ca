using FramePin.Core.Abi;
using FramePin.Core.Access;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Inspection;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Tests.Support;

/// <summary>The commands as methods over live objects, for tests that hold those.</summary>
internal static class MachineCalls
{
    public static AddressSpace? CreateAddressSpace(
        this Machine machine, string name, AddressSpaceLayout layout, TaskState task)
    {
        var result = machine.Call(new CreateSpaceCall(name, layout, task));
        return result.IsOk ? machine.Context.Space(new SpaceId((int)result.Value)) : null;
    }

    public static AddressSpace? Fork(this Machine machine, AddressSpace parent, string childName, out Errno error)
    {
        var result = machine.Call(new ForkCall(parent.Id, childName));
        error = result.Error;
        return result.IsOk ? machine.Context.Space(new SpaceId((int)result.Value)) : null;
    }

    public static Errno Exit(this Machine machine, AddressSpace space) => machine.ExitProcess(space.Id);

    public static Errno SetTask(this Machine machine, AddressSpace space, TaskState task) =>
        machine.Call(new SetTaskCall(space.Id, task)).Error;

    public static SyscallResult SetMdwe(this Machine machine, AddressSpace space, MdweFlags flags) =>
        machine.Call(new SetMdweCall(space.Id, flags));

    public static Errno InstallMapping(this Machine machine, AddressSpace space, InstalledMapping mapping) =>
        machine.Call(new InstallMappingCall(space.Id, mapping)).Error;

    public static Errno ClearSoftDirty(this Machine machine, AddressSpace space) =>
        machine.Call(new ClearSoftDirtyCall(space.Id)).Error;

    public static SyscallResult Mmap(this Machine machine, AddressSpace space, MmapRequest request) =>
        machine.Call(new MmapCall(space.Id, request.Address, request.Length, request.Prot, request.Flags)
        {
            File = request.File is { } file ? new FileId(file.Id) : FileId.None,
            Device = request.Device?.Id ?? DeviceId.None,
            IsWriteOnly = !request.OpenedForRead,
            IsReadOnly = !request.OpenedForWrite,
            Opening = request.Opening,
            Offset = request.Offset,
        });

    public static SyscallResult Munmap(this Machine machine, AddressSpace space, ulong start, ulong length) =>
        machine.Call(new MunmapCall(space.Id, start, length));

    public static SyscallResult Mprotect(
        this Machine machine, AddressSpace space, ulong start, ulong length, Prot prot) =>
        machine.Call(new MprotectCall(space.Id, start, length, prot));

    public static SyscallResult Mremap(
        this Machine machine, AddressSpace space, ulong address, ulong oldLength, ulong newLength, MremapFlags flags,
        ulong newAddress = 0) =>
        machine.Call(new MremapCall(space.Id, address, oldLength, newLength, flags, newAddress));

    public static SyscallResult Madvise(
        this Machine machine, AddressSpace space, ulong start, ulong length, Advice advice) =>
        machine.Call(new MadviseCall(space.Id, start, length, advice));

    public static SyscallResult Mlock(
        this Machine machine, AddressSpace space, ulong start, ulong length, uint flags = 0) =>
        machine.Call(new MlockCall(space.Id, start, length, flags));

    public static SyscallResult Munlock(this Machine machine, AddressSpace space, ulong start, ulong length) =>
        machine.Call(new MunlockCall(space.Id, start, length));

    public static SyscallResult MlockAll(this Machine machine, AddressSpace space, uint flags) =>
        machine.Call(new MlockAllCall(space.Id, flags));

    public static SyscallResult MunlockAll(this Machine machine, AddressSpace space) =>
        machine.Call(new MunlockAllCall(space.Id));

    public static SyscallResult Brk(this Machine machine, AddressSpace space, ulong wanted) =>
        machine.Call(new BrkCall(space.Id, wanted));

    public static SyscallResult Mseal(
        this Machine machine, AddressSpace space, ulong start, ulong length, ulong flags) =>
        machine.Call(new MsealCall(space.Id, start, length, flags));

    public static SyscallResult Msync(
        this Machine machine, AddressSpace space, ulong start, ulong length, MsyncFlags flags) =>
        machine.Call(new MsyncCall(space.Id, start, length, flags));

    public static SyscallResult Mincore(
        this Machine machine, AddressSpace space, ulong start, ulong length, Span<byte> residency) =>
        machine.Query<MincoreQuery, SyscallResult>(new(space.Id, start, length, residency));

    public static UserSignal Touch(this Machine machine, AddressSpace space, ulong address, bool isWrite) =>
        machine.Execute<TouchCall, AccessResult>(new(space.Id, address, 1, isWrite)).Signal;

    public static long TouchRange(
        this Machine machine, AddressSpace space, ulong start, long pages, bool isWrite, out UserSignal signal)
    {
        (var done, signal) = machine.Execute<TouchCall, AccessResult>(new(space.Id, start, pages, isWrite));
        return done;
    }

    public static int Read(
        this Machine machine, AddressSpace space, ulong address, Span<byte> buffer, out UserSignal signal)
    {
        (var done, signal) = machine.Execute<LoadCall, AccessResult>(new(space.Id, address, buffer));
        return (int)done;
    }

    public static int Write(
        this Machine machine, AddressSpace space, ulong address, ReadOnlySpan<byte> bytes, out UserSignal signal)
    {
        (var done, signal) = machine.Execute<StoreCall, AccessResult>(new(space.Id, address, bytes));
        return (int)done;
    }

    public static MemoryFile? CreateFile(
        this Machine machine, string name, FileKind kind, ulong size, int hugeOrder = 0, string? deviceNumber = null,
        ulong inode = 0)
    {
        var result = machine.Call(new CreateFileCall(name, kind, size, hugeOrder, deviceNumber, inode));
        return result.IsOk ? machine.Context.File(new FileId((int)result.Value)) : null;
    }

    public static void Fsync(this Machine machine, MemoryFile file) => machine.Call(new FsyncCall(new FileId(file.Id)));

    public static void SetOthersMayWrite(this Machine machine, MemoryFile file, bool mayWrite) =>
        machine.Call(new ChmodCall(new FileId(file.Id), mayWrite));

    public static void Unlink(this Machine machine, MemoryFile file) =>
        machine.Call(new UnlinkCall(new FileId(file.Id)));

    public static Errno Truncate(this Machine machine, MemoryFile file, ulong size) =>
        machine.Call(new TruncateCall(new FileId(file.Id), size)).Error;

    public static Errno PunchHole(this Machine machine, MemoryFile file, ulong offset, ulong length) =>
        machine.Call(new PunchHoleCall(new FileId(file.Id), offset, length)).Error;

    public static Errno SealWrite(this Machine machine, MemoryFile file) =>
        machine.Call(new SealWriteCall(new FileId(file.Id))).Error;

    public static int ReadFile(this Machine machine, MemoryFile file, ulong offset, Span<byte> buffer) =>
        (int)machine.Call(new ReadFileCall(new FileId(file.Id), offset, buffer)).Value;

    public static int WriteFile(
        this Machine machine, MemoryFile file, ulong offset, ReadOnlySpan<byte> bytes, out Errno error)
    {
        (var done, error) = machine.Execute<WriteFileCall, WriteFileResult>(new(new FileId(file.Id), offset, bytes));
        return done;
    }

    public static Device? CreateDevice(
        this Machine machine, string name, DeviceMapping mapping, ulong frames, bool isRam, bool hasClose,
        bool isWritable, bool remapsInParts = false)
    {
        var result = machine.Call(
            new CreateDeviceCall(name, mapping, frames, isRam, hasClose, isWritable, remapsInParts));
        return result.IsOk ? machine.Context.Device(new DeviceId((int)result.Value)) : null;
    }

    public static bool DestroyDevice(this Machine machine, Device device) =>
        machine.Call(new DestroyDeviceCall(device.Id)).IsOk;

    /// <summary>A vector over a device's pages; null for MMIO and for a destroyed device.</summary>
    public static FrameVector? CreateVector(this Machine machine, Device device)
    {
        if (!device.IsRam || machine.CreateVector((long)device.Frames) is not { } vector) return null;
        if (machine.Call(new ExportDeviceCall(device.Id, vector.Id, vector.Allocated)).IsOk) return vector;
        machine.DestroyVector(vector);
        return null;
    }

    public static PinOutcome GetVaddrFrames(
        this Machine machine, AddressSpace space, ulong start, long count, GupFlags flags, FrameVector vector,
        IPinObserver? observer = null) =>
        machine.Pin(new PinRequest(space.Id, start, count, flags), vector, observer);

    public static PinOutcome Gup(
        this Machine machine, AddressSpace space, GupCall call, ulong start, long count, GupFlags flags,
        LockedArgument locked, FrameVector vector) =>
        machine.Pin(new PinRequest(space.Id, start, count, flags) { Call = call, Locked = locked }, vector);

    public static long CountPinnable(
        this Machine machine, AddressSpace space, ulong start, long count, GupFlags flags, out StopReason reason)
    {
        (var pages, reason) = machine.Query<PinnableQuery, (long, StopReason)>(new(space.Id, start, count, flags));
        return pages;
    }

    public static PinOutcome Resume(this Machine machine, ParkedPin parked) =>
        machine.TryResume(parked, isKilled: false, out var outcome)
            ? outcome
            : throw new InvalidOperationException("this pin is not parked");

    public static bool TryResume(this Machine machine, ParkedPin parked, bool isKilled, out PinOutcome outcome)
    {
        var result = machine.Execute<ResumePinCall, PinOutcome?>(new(parked.Id, isKilled));
        outcome = result ?? default;
        return result is not null;
    }

    public static IReadOnlyList<ParkedPin> ParkedPins(this Machine machine) =>
        machine.Query<ParkedPinsQuery, IReadOnlyList<ParkedPin>>(default);

    public static IReadOnlyList<ParkedPin> ParkedAt(this Machine machine, AddressSpace space, ulong address) =>
        machine.Query<ParkedAtQuery, IReadOnlyList<ParkedPin>>(new(space.Id, address));

    public static void PutVaddrFrames(this Machine machine, FrameVector vector) => machine.Put(vector, isDirty: false);

    public static void PutVaddrFramesDirty(this Machine machine, FrameVector vector) =>
        machine.Put(vector, isDirty: true);

    public static FrameVector? CreateFramevec(
        this Machine machine, AddressSpace space, ulong start, ulong length, bool isWrite, out Errno error) =>
        AccessPaths.CreateFramevec(machine, space.Id, start, length, isWrite, out error);

    public static FrameHold? HoldRange(
        this Machine machine, AddressSpace space, ulong start, long pages, bool isWrite, out UserSignal signal,
        out ulong failedAt)
    {
        (var hold, signal, failedAt) =
            machine.Execute<HoldRangeCall, HoldRangeResult>(new(space.Id, start, pages, isWrite));
        return hold;
    }

    public static ulong QuarantinedBy(this Machine machine, IReadOnlyCollection<FrameHold> holds) =>
        machine.Query<QuarantinedQuery, ulong>(new(holds));

    public static long Compact(this Machine machine) => (long)machine.Call(default(CompactCall)).Value;

    public static void AddFaultRule(this Machine machine, FaultRule rule) => machine.Call(new AddFaultRuleCall(rule));

    public static void ClearFaultPlan(this Machine machine) => machine.Call(default(ClearFaultPlanCall));

    public static PageView ViewPage(this Machine machine, Pfn pfn) => machine.Query<PageQuery, PageView>(new(pfn));

    public static IReadOnlyList<PageView> ViewPages(this Machine machine, FrameVector vector, long from, int most) =>
        machine.Query<VectorPagesQuery, IReadOnlyList<PageView>>(new(vector, from, most));

    public static Pfn? Translate(this Machine machine, AddressSpace space, ulong address) =>
        machine.Query<TranslateQuery, Pfn?>(new(space.Id, address));

    public static bool PeekFrame(this Machine machine, Pfn pfn, Span<byte> page) =>
        machine.Query<PeekFrameQuery, bool>(new(pfn, page));

    public static bool IsFreed(this Machine machine, Pfn pfn) => machine.Query<IsFreedQuery, bool>(new(pfn));

    public static IReadOnlyList<MapsEntry> Maps(this Machine machine, AddressSpace space, bool withUsage = false) =>
        machine.Query<MapsQuery, IReadOnlyList<MapsEntry>>(new(space.Id, withUsage));

    public static ulong[] Pagemap(this Machine machine, AddressSpace space, ulong start, int count) =>
        machine.Query<PagemapQuery, ulong[]>(new(space.Id, start, count));

    public static SyscallResult Vmsplice(
        this Machine machine, AddressSpace space, ulong address, ulong length, int room,
        ICollection<FrameVector> buffers, FaultWait? wait = null) =>
        AccessPaths.Vmsplice(machine, space.Id, address, length, room, buffers, wait);

    public static SyscallResult ProcessVm(
        this Machine machine, AddressSpace space, ulong address, Span<byte> buffer, bool isWrite,
        FaultWait? wait = null) =>
        AccessPaths.ProcessVm(machine, space.Id, address, buffer, isWrite, wait);

    public static SyscallResult DirectIo(
        this Machine machine, AddressSpace space, ulong address, Span<byte> buffer, bool isRead,
        FaultWait? wait = null) =>
        AccessPaths.DirectIo(machine, space.Id, address, buffer, isRead, wait);

    public static SyscallResult ProcMem(
        this Machine machine, AddressSpace space, ulong address, Span<byte> buffer, bool isWrite,
        TaskState? actor = null) =>
        AccessPaths.ProcMem(machine, space.Id, address, buffer, isWrite, actor);

    public static SyscallResult CopyUser(
        this Machine machine, AddressSpace space, ulong address, Span<byte> buffer, bool isWrite,
        FaultWait? wait = null) =>
        AccessPaths.CopyUser(machine, space.Id, address, buffer, isWrite, wait);

    public static SyscallResult FutexWake(
        this Machine machine, AddressSpace space, ulong address, FaultWait? wait = null) =>
        AccessPaths.FutexWake(machine, space.Id, address, wait);

    public static SyscallResult FutexWakeOp(this Machine machine, AddressSpace space, ulong address) =>
        machine.Call(new FutexWakeOpCall(space.Id, address));

    public static Errno FixupUserFault(
        this Machine machine, AddressSpace space, ulong address, bool isWrite, out bool unlocked)
    {
        var result = machine.Call(new FixupUserFaultCall(space.Id, address, isWrite));
        unlocked = result.Value != 0 || result.IsPartial;
        return result.Error;
    }

    public static Errno[] QueryNodes(this Machine machine, AddressSpace space, ulong address, int pages) =>
        machine.Query<NodesQuery, Errno[]>(new(space.Id, address, pages));

    public static Ring? SetupRing(this Machine machine, AddressSpace space, out Errno error) =>
        RingCalls.SetupRing(machine, space.Id, out error);

    public static SyscallResult RegisterBuffer(
        this Machine machine, AddressSpace space, ulong address, ulong length, FrameVector vector) =>
        RingCalls.RegisterBuffer(machine, space.Id, address, length, vector);

    public static Userfaultfd? CreateUserfaultfd(this Machine machine, AddressSpace space, out Errno error)
    {
        var result = machine.Call(new CreateUffdCall(space.Id));
        error = result.Error;
        return result.IsOk ? machine.Context.Userfaultfd(new UffdId((int)result.Value)) : null;
    }

    public static SyscallResult RegisterUffd(
        this Machine machine, Userfaultfd fd, ulong start, ulong length, UffdModes modes) =>
        machine.Call(new RegisterUffdCall(fd.Id, start, length, modes));

    public static SyscallResult UnregisterUffd(this Machine machine, Userfaultfd fd, ulong start, ulong length) =>
        machine.Call(new UnregisterUffdCall(fd.Id, start, length));

    public static SyscallResult WriteProtectUffd(
        this Machine machine, Userfaultfd fd, ulong start, ulong length, bool isOn) =>
        machine.Call(new ProtectUffdCall(fd.Id, start, length, isOn));

    public static SyscallResult FillUffd(
        this Machine machine, Userfaultfd fd, ulong address, ReadOnlySpan<byte> content) =>
        machine.Call(new FillUffdCall(fd.Id, address, content));

    public static SyscallResult PoisonMarkers(this Machine machine, AddressSpace space, ulong address, ulong length) =>
        machine.Call(new PoisonUffdCall(space.Id, address, length));

    public static bool Serve(this Machine machine, Device device) => machine.Call(new ServeDeviceCall(device.Id)).IsOk;

    public static void StopServing(this Machine machine, Device device) =>
        machine.Call(new StopServingCall(device.Id));

    public static void Serve(this Machine machine, Userfaultfd fd) => machine.Call(new ServeUffdCall(fd.Id));

    public static void Close(this Machine machine, Userfaultfd fd) => machine.Call(new CloseUffdCall(fd.Id));

    public static Errno Answer(this Machine machine, ServedFault fault, FaultReply reply, ulong page = 0) =>
        machine.Call(new AnswerFaultCall(fault.Number, reply, page)).Error;

    public static bool Wake(this Machine machine, ServedFault fault) =>
        machine.Call(new WakeFaultCall(fault.Number)).IsOk;

    public static ServedFault? WaitingFault(this Machine machine, AddressSpace space, ulong address) =>
        machine.Query<WaitingFaultQuery, ServedFault?>(new(space.Id, address));

    /// <summary>The ranges that a command would take away if it ran now.</summary>
    public static IReadOnlyList<TakenRange> TakenBy<TCommand>(this Machine machine, TCommand command)
        where TCommand : IInvalidating, allows ref struct =>
        machine.Query<TakenQuery<TCommand>, IReadOnlyList<TakenRange>>(new(command));

    private readonly ref struct TakenQuery<TCommand>(TCommand command) : IQuery<IReadOnlyList<TakenRange>>
        where TCommand : IInvalidating, allows ref struct
    {
        private readonly TCommand _command = command;

        public IReadOnlyList<TakenRange> Run(in Turn turn)
        {
            var taken = new List<TakenRange>();
            _command.AddTaken(turn, taken);
            return taken;
        }
    }
}
