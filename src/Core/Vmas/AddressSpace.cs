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

    /// <summary>First byte behind the initial stack; 0 when there is none.</summary>
    public ulong StackTop { get; init; }

    /// <summary>Bytes of the initial stack mapping.</summary>
    public ulong StackSize { get; init; } = 132UL << 10;
}

/// <summary>An emulated mm_struct: VMAs, page table, and the task behind it. A handle outside Core.</summary>
/// <remarks>
/// Guarded by the machine's turn. Pins read <see cref="PageTable"/> and set <see cref="HasPinned"/> under the gate.
/// </remarks>
public sealed class AddressSpace
{
    internal AddressSpace(int id, string name, PageTable pageTable, AddressSpaceLayout layout, TaskState task)
    {
        Id = id;
        Name = name;
        PageTable = pageTable;
        Layout = layout;
        Task = task;
        Brk = layout.StartBrk;
        StackStart = layout.StackTop;
    }

    public int Id { get; }

    /// <summary>Last segment of the resource name.</summary>
    public string Name { get; }

    internal PageTable PageTable { get; }

    public AddressSpaceLayout Layout { get; }

    public TaskState Task { get; internal set; }

    internal VmaTree Vmas { get; } = new();

    /// <summary>Present break, in bytes.</summary>
    public ulong Brk { get; internal set; }

    /// <summary>An address inside the VMA that maps shows as [stack]; 0 for none.</summary>
    public ulong StackStart { get; internal set; }

    /// <summary>mm has-pinned flag: set at the first PIN attempt, never cleared.</summary>
    public bool HasPinned { get; internal set; }

    /// <summary>mlockall(MCL_FUTURE): new mappings are locked.</summary>
    public bool LocksFuture { get; internal set; }

    public bool LocksFutureOnFault { get; internal set; }

    /// <summary>The process has exited; its frame vectors may live on.</summary>
    public bool Exited { get; internal set; }

    /// <summary>The vsyscall page exists (execute-only unless read is allowed).</summary>
    public bool HasVsyscall { get; internal set; }

    public int MapCount => Vmas.Count;

    /// <summary>Mapped pages whose VMA has all of <paramref name="wanted"/> and none of <paramref name="unwanted"/>.</summary>
    /// <remarks>
    /// total_vm, data_vm and locked_vm, counted when a limit asks for them: a running count would be cheaper there and one
    /// more thing to keep right everywhere.
    /// </remarks>
    public ulong CountPages(Abi.VmFlags wanted = 0, Abi.VmFlags unwanted = 0)
    {
        var pages = 0UL;
        foreach (var vma in Vmas.All)
            if (vma.Has(wanted) && !vma.HasAny(unwanted)) pages += vma.Pages;
        return pages;
    }

    public override string ToString() => Name;
}
