using FramePin.Core.Addressing;
using FramePin.Core.PageTables;

namespace FramePin.Core.Vmas;

/// <summary>Where an address space keeps its fixed parts. Addresses in bytes.</summary>
public sealed record AddressSpaceLayout
{
    /// <summary>Mappings without a hint are placed below it, top down.</summary>
    public ulong MmapBase { get; init; } = 0x7FFF_F7FF_F000;

    /// <summary>Start of the heap.</summary>
    public ulong StartBrk { get; init; } = 0x5555_5555_9000;

    /// <summary>
    /// Bytes of the program's own data (end_data - start_data), which RLIMIT_DATA counts when the heap grows.
    /// </summary>
    public ulong DataSize { get; init; }

    /// <summary>First byte behind the initial stack; 0 when there is none.</summary>
    public ulong StackTop { get; init; }

    /// <summary>Bytes of the initial stack mapping.</summary>
    public ulong StackSize { get; init; } = 132UL << 10;
}

/// <summary>An emulated mm_struct: VMAs, page table, and the task behind it. Commands name it by its number.</summary>
/// <remarks>
/// Guarded by the machine's turn. Pins read <see cref="PageTable"/> and set <see cref="HasPinned"/> under the gate.
/// </remarks>
internal sealed class AddressSpace
{
    internal AddressSpace(SpaceId id, string name, PageTable pageTable, AddressSpaceLayout layout, TaskState task)
    {
        Id = id;
        Name = name;
        PageTable = pageTable;
        TaskSize = PageGeometry.TaskSizeOf(pageTable.Levels);
        Layout = layout;
        Task = task;
        Brk = layout.StartBrk;
        StackStart = layout.StackTop;
    }

    public SpaceId Id { get; }

    /// <summary>Last segment of the resource name.</summary>
    public string Name { get; }

    internal PageTable PageTable { get; }

    /// <summary>mm->task_size: the first byte behind what the address space may map.</summary>
    internal ulong TaskSize { get; }

    /// <summary>
    /// Splits a huge leaf that an address would cut in two; false without room for a table. Given by the machine.
    /// </summary>
    internal Func<ulong, bool> CutLeaf { get; set; } = static _ => true;

    public AddressSpaceLayout Layout { get; }

    public TaskState Task { get; internal set; }

    internal VmaList Vmas { get; } = new();

    /// <summary>Present break, in bytes.</summary>
    public ulong Brk { get; internal set; }

    /// <summary>An address inside the VMA that maps shows as [stack]; 0 for none.</summary>
    public ulong StackStart { get; internal set; }

    /// <summary>mm has-pinned flag: set at the first PIN attempt, never cleared.</summary>
    public bool HasPinned { get; internal set; }

    /// <summary>mlockall(MCL_FUTURE): new mappings are locked.</summary>
    public bool LocksFuture { get; internal set; }

    public bool LocksFutureOnFault { get; internal set; }

    /// <summary>PR_SET_MDWE: what may not become executable.</summary>
    public Abi.MdweFlags Mdwe { get; internal set; }

    /// <summary>pinned_vm, in pages: what rings have registered (VmPin of /proc/PID/status).</summary>
    public long PinnedPages { get; internal set; }

    /// <summary>map_deny_write_exec: PR_SET_MDWE forbids going from one set of flags to the other.</summary>
    internal bool DeniesWriteExec(Abi.VmFlags before, Abi.VmFlags after)
    {
        if (Mdwe == 0 || (after & Abi.VmFlags.Exec) == 0) return false;
        return (after & Abi.VmFlags.Write) != 0 || (before & Abi.VmFlags.Exec) == 0;
    }

    /// <summary>The process has exited; its frame vectors may live on.</summary>
    public bool Exited { get; internal set; }

    /// <summary>The vsyscall page exists (execute-only unless read is allowed).</summary>
    public bool HasVsyscall { get; internal set; }

    public int MapCount => Vmas.Count;

    /// <summary>Makes an area part of the address space (vma_link).</summary>
    internal void Link(Vma vma)
    {
        Vmas.Insert(vma);
        vma.Open(this);
    }

    /// <summary>Takes an area out of the address space. Its entries are gone, or another area covers them.</summary>
    internal void Unlink(Vma vma)
    {
        Vmas.Remove(vma);
        vma.Close();
    }

    /// <summary>
    /// Mapped pages whose VMA has all of <paramref name="wanted"/> and none of <paramref name="unwanted"/>.
    /// </summary>
    /// <remarks>
    /// total_vm, data_vm and locked_vm, counted when a limit asks for them: a running count would be cheaper there and
    /// one more thing to keep right everywhere.
    /// </remarks>
    public ulong CountPages(Abi.VmFlags wanted = 0, Abi.VmFlags unwanted = 0)
    {
        var pages = 0UL;
        foreach (var vma in Vmas.All)
            if (vma.Has(wanted) && !vma.HasAny(unwanted)) pages += vma.Pages;
        return pages;
    }

    /// <summary>
    /// locked_vm, in pages: what is locked, and what <see cref="UncountedUnlocks"/> left behind.
    /// </summary>
    internal ulong LockedPages => CountPages(Abi.VmFlags.Locked) + UncountedUnlocks;

    /// <summary>
    /// Pages of areas that MREMAP_DONTUNMAP unlocked without taking them off locked_vm, as the kernel does.
    /// </summary>
    internal ulong UncountedUnlocks { get; set; }

    public override string ToString() => Name;
}
