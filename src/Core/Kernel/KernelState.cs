using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Frames;
using FramePin.Core.PageTables;
using FramePin.Core.Vmas;

namespace FramePin.Core.Kernel;

/// <summary>
/// The state of one emulated kernel: profile, memory, page tables, huge page pools, swap, fault plan, and every address
/// space, file and device. Every path of the mm takes it as its first argument.
/// </summary>
/// <remarks>The turn guards it. The machine owns it.</remarks>
internal sealed partial class KernelState : IDisposable
{
    /// <summary>Users that may touch native memory outside turn and gate, the machine itself being the first.</summary>
    private int _users = 1;
    private int _files;

    public KernelState(KernelProfile profile, PhysicalMemory memory, ThpMode thp)
    {
        Profile = profile;
        Memory = memory;
        Thp = thp;
        // Enough to map every frame twice over with 4 KiB leaves, and room for sparse layouts; reserved, not resident.
        var tables = Math.Min((memory.Frames.Count / 128) + 65536, int.MaxValue / 2);
        Tables = new TablePool((int)tables);
        memory.HugeFreed = ReturnHuge;
        // MMIO starts one gigabyte behind the RAM: a PFN behind the end of the one lies well before the other.
        _nextMmio = memory.Frames.Count + (1UL << PageGeometry.PudOrder);
        var exited = new AddressSpace(
            default, "", PageTable.Destroyed(Tables), new AddressSpaceLayout(), new TaskState())
        {
            Exited = true,
        };
        _spaces = new AddressSpace[16];
        Array.Fill(_spaces, exited);
    }

    public KernelProfile Profile { get; }

    public PhysicalMemory Memory { get; }

    public TablePool Tables { get; }

    public ThpMode Thp { get; }

    /// <summary>The huge zero page, made when first wanted; it stays. Invalid before.</summary>
    public Pfn HugeZero { get; private set; } = Pfn.Invalid;

    /// <summary>mm_get_huge_zero_folio: false when there is no room for one.</summary>
    public bool EnsureHugeZero()
    {
        if (HugeZero != Pfn.Invalid) return true;
        if (Memory.Allocate(PageGeometry.PmdOrder, AllocationContext.Unmovable, FrameFlags.None) is not { } head)
            return false;
        HugeZero = head;
        return true;
    }

    /// <summary>
    /// Reads of untouched anonymous memory map the zero page. A split of a large folio does so in any case.
    /// </summary>
    public bool UsesZeroPage { get; init; } = true;

    /// <summary>Disk file systems keep pages without contents (<see cref="Backing.MemoryFile.NoteUnread"/>).</summary>
    public bool CachesZeroedHoles { get; init; } = true;

    /// <summary>The processor has protection keys: execute-only memory is just that.</summary>
    public bool HasProtectionKeys { get; init; }

    /// <summary>Levels of the page tables of programs: 4, or 5 (the processor has LA57).</summary>
    public int PageTableLevels { get; init; } = 4;

    /// <summary>TASK_SIZE_MAX, in bytes.</summary>
    public ulong TaskSize => PageGeometry.TaskSizeOf(PageTableLevels);

    /// <summary>CONFIG_MEMORY_FAILURE.</summary>
    public bool HandlesMemoryFailure { get; init; } = true;

    /// <summary>Where reclaim puts anonymous memory and that of memory files; null without swap.</summary>
    public SwapDevice? Swap { get; init; }

    /// <summary><see cref="Pte.SoftDirty"/> where the kernel keeps track of it, else nothing.</summary>
    public ulong SoftDirty { get; init; }

    /// <summary>What a new area has (VM_SOFTDIRTY): all of it counts as stored to.</summary>
    public VmFlags NewArea => SoftDirty != 0 ? VmFlags.SoftDirty : VmFlags.None;

    public FaultPlan Plan { get; } = new();

    /// <summary>Faults that handlers outside are asked about.</summary>
    public ServedFaults Served { get; } = new();

    public Dictionary<int, HugePool> HugePools { get; } = [];

    /// <summary>Every address space that has not been deleted, oldest first.</summary>
    public List<AddressSpace> Spaces { get; } = [];

    /// <summary>Files by id.</summary>
    public SortedDictionary<int, MemoryFile> Files { get; } = [];

    /// <summary>Devices that their drivers own still or mappings keep.</summary>
    public List<Device> Devices { get; } = [];

    /// <summary>Faults handled, and those that had to be tried again, for statistics.</summary>
    public long FaultCount { get; set; }

    public long RetryCount { get; set; }

    public long MigrationCount { get; set; }

    /// <summary>The anon_vmas that areas refer to.</summary>
    public AnonVmas AnonVmas { get; } = new();

    /// <summary>
    /// A user page, zeroed unless all of it is going to be overwritten; null when memory is out or the plan says so.
    /// </summary>
    public Pfn? AllocatePage(
        AddressSpace? space, ulong address, AllocationContext context, FrameFlags flags, int order = 0,
        bool isOverwritten = false) =>
        space is not null && Plan.Decide(ChoicePoint.Allocation, space.Name, address) == FaultAction.Oom
            ? null
            : Memory.Allocate(order, context, flags, isOverwritten);

    /// <summary>The pool of a size has a page that is promised to nobody.</summary>
    public bool HasHuge(int order) =>
        HugePools.TryGetValue(order, out var pool) && pool.Available > 0;

    /// <summary>
    /// Takes a huge page off its pool, with one reference and zeroed unless all of it is going to be overwritten; null
    /// when none may be taken.
    /// </summary>
    public Pfn? TakeHuge(int order, bool fromReserve, bool isOverwritten = false)
    {
        if (!HugePools.TryGetValue(order, out var pool)) return null;
        if (!fromReserve && pool.Available <= 0) return null;
        if (!pool.Free.TryPop(out var head)) return null;
        if (fromReserve) pool.Reserved--;
        var size = 1UL << order;
        if (!isOverwritten) Memory.Bytes.Punch(head, size);
        Memory.Frames.InitCount(head);
        return head;
    }

    /// <summary>A huge page whose last reference is gone goes back to its pool.</summary>
    private void ReturnHuge(Pfn head)
    {
        var info = Memory.Frames[head];
        if ((info.Flags & FrameFlags.RestoreReserve) != 0) HugePools[info.Order].Reserved++;
        info.Flags &= ~(FrameFlags.RestoreReserve | FrameFlags.Anon | FrameFlags.InCache | FrameFlags.Dirty
            | FrameFlags.Referenced | FrameFlags.PendingFree);
        info.MapCount = 0;
        info.FileId = 0;
        info.Index = 0;
        Memory.Frames.ClearCount(head);
        var pool = HugePools[info.Order];
        // A broken page leaves the pool (dissolve_free_hugetlb_folio).
        if ((info.Flags & FrameFlags.HwPoison) != 0) pool.Total--;
        else pool.Free.Push(head);
    }

    /// <summary>A new memory file of <paramref name="size"/> bytes; null when no table is left.</summary>
    public MemoryFile? CreateFile(string name, FileKind kind, ulong size, int hugeOrder = 0)
    {
        if (PageTable.Create(Tables) is not { } cache) return null;
        var file = new MemoryFile(++_files, name, kind, hugeOrder, Memory, cache, Swap)
        {
            Size = size,
            Pool = kind == FileKind.HugeTlb ? HugePools.GetValueOrDefault(hugeOrder) : null,
        };
        Files.Add(file.Id, file);
        return file;
    }

    /// <summary>
    /// Destroys a file that has neither a name nor a mapping any more, and gives back what it was promised.
    /// </summary>
    public void DropIfUnused(MemoryFile? file)
    {
        if (file is not { Unlinked: true, MappingCount: 0 } || !Files.Remove(file.Id)) return;
        file.Destroy();
    }

    /// <summary>
    /// Gives a destroyed device's memory back once nothing maps it (vb2_vm_close of an orphaned buffer). Pages that
    /// pins or vectors hold go with those.
    /// </summary>
    public void DropIfUnused(Device? device)
    {
        if (device is not { IsOrphan: true, MappingCount: 0 } || !_devices.Remove(device.Id)) return;
        Devices.Remove(device);
        Served.Serve(device, isServed: false);
        if (!device.IsRam) return;
        var held = System.Numerics.BitOperations.RoundUpToPowerOf2(device.Frames);
        for (var i = 0UL; i < held; i++)
        {
            Memory.Frames[device.First + i].Flags &= ~(FrameFlags.Device | FrameFlags.P2PDma);
            Memory.Put(device.First + i);
        }
    }

    /// <summary>The machine was deleted. Set inside the gate; a pin that finds it set leaves at once.</summary>
    public bool IsDisposed { get; private set; }

    /// <summary>Called once, when nobody can touch native memory any more.</summary>
    public Action? Freed { get; set; }

    /// <summary>
    /// Holds native memory for work outside turn and gate (copies of bytes): false when the machine was deleted. Pair
    /// with <see cref="LeaveUse"/>.
    /// </summary>
    public bool TryUse()
    {
        var seen = Volatile.Read(ref _users);
        while (seen > 0)
        {
            var found = Interlocked.CompareExchange(ref _users, seen + 1, seen);
            if (found == seen) return true;
            seen = found;
        }

        return false;
    }

    public void LeaveUse()
    {
        if (Interlocked.Decrement(ref _users) > 0) return;
        Tables.Dispose();
        Memory.Dispose();
        Freed?.Invoke();
    }

    /// <summary>
    /// Refuses new pins and frees native memory as soon as the last copy is done. Under the turn lock.
    /// </summary>
    public void Dispose()
    {
        Memory.Gate.EnterTurn();
        IsDisposed = true;
        Memory.Gate.LeaveTurn();
        LeaveUse();
    }
}
