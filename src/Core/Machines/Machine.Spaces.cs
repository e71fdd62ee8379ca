using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.PageTables;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Core.Machines;

/// <summary>Address spaces and the calls on them. An exited space answers -ESRCH.</summary>
public sealed partial class Machine
{
    /// <summary>
    /// A new, empty address space (with its initial stack if the layout has one); null when no table is left.
    /// </summary>
    public AddressSpace? CreateAddressSpace(string name, AddressSpaceLayout layout, TaskState task)
    {
        using var turn = EnterTurn();
        if (NewSpace(name, layout, task) is not { } space) return null;
        if (layout.StackTop == 0) return space;
        var start = layout.StackTop - PageGeometry.AlignUp(layout.StackSize, PageGeometry.PageSize);
        Install(space, new InstalledMapping
        {
            Range = new AddressRange(start, layout.StackTop),
            Prot = Prot.Read | Prot.Write,
            Kind = InstalledKind.Stack,
        });
        return space;
    }

    /// <summary>fork: a copy under <paramref name="childName"/>, or null with the errno.</summary>
    public AddressSpace? Fork(AddressSpace parent, string childName, out Errno error)
    {
        using var turn = EnterTurn();
        error = parent.Exited ? Errno.ESRCH : Errno.ENOMEM;
        if (parent.Exited || NewSpace(
            childName, parent.Layout, parent.Task with { Pending = default }) is not { } child)
            return null;
        error = ForkCall.Run(_kernel, parent, child);
        if (error != Errno.None) return null;
        foreach (var ring in _rings)
            if (ring.Holders.Contains(parent)) ring.Holders.Add(child);
        return child;
    }

    /// <summary>The process ends: mappings go, its rings too, pins stay with their vectors.</summary>
    public Errno Exit(AddressSpace space)
    {
        using (EnterTurn())
        {
            if (space.Exited) return Errno.ESRCH;
            ExitCall.Run(_kernel, space);
        }

        CloseRings(space);
        return Errno.None;
    }

    /// <summary>
    /// prctl(PR_SET_MDWE): refuses from now on what is writable and executable, and what becomes executable. Inherited
    /// by fork unless NO_INHERIT is given. -EINVAL before 6.3 and for other bits, -EPERM to take it back.
    /// </summary>
    public SyscallResult SetMdwe(AddressSpace space, MdweFlags flags)
    {
        using var turn = EnterTurn();
        if (space.Exited) return Errno.ESRCH;
        if (!Profile.HasMdwe || (flags & ~(MdweFlags.RefuseExecGain | MdweFlags.NoInherit)) != 0) return Errno.EINVAL;
        if (flags == MdweFlags.NoInherit) return Errno.EINVAL;
        if (space.Mdwe != MdweFlags.None && space.Mdwe != flags) return Errno.EPERM;
        space.Mdwe = flags;
        return SyscallResult.Ok();
    }

    public SyscallResult Mmap(AddressSpace space, MmapRequest request)
    {
        using var turn = EnterTurn();
        return space.Exited ? Errno.ESRCH : MmapCall.Run(_kernel, space, request);
    }

    public SyscallResult Munmap(AddressSpace space, ulong start, ulong length)
    {
        using var turn = EnterTurn();
        return space.Exited ? Errno.ESRCH : MunmapCall.Run(_kernel, space, start, length);
    }

    public SyscallResult Mprotect(AddressSpace space, ulong start, ulong length, Prot prot)
    {
        using var turn = EnterTurn();
        return space.Exited ? Errno.ESRCH : MprotectCall.Run(_kernel, space, start, length, prot);
    }

    public SyscallResult Mremap(
        AddressSpace space, ulong address, ulong oldLength, ulong newLength, MremapFlags flags, ulong newAddress = 0)
    {
        using var turn = EnterTurn();
        return space.Exited ? Errno.ESRCH
            : MremapCall.Run(_kernel, space, address, oldLength, newLength, flags, newAddress);
    }

    public SyscallResult Madvise(AddressSpace space, ulong start, ulong length, Advice advice)
    {
        using var turn = EnterTurn();
        return space.Exited ? Errno.ESRCH : MadviseCall.Run(_kernel, space, start, length, advice);
    }

    /// <summary>mlock2: flags 0, or 1 for MLOCK_ONFAULT.</summary>
    public SyscallResult Mlock(AddressSpace space, ulong start, ulong length, uint flags = 0)
    {
        using var turn = EnterTurn();
        return space.Exited ? Errno.ESRCH : MlockCalls.Lock(_kernel, space, start, length, flags);
    }

    public SyscallResult Munlock(AddressSpace space, ulong start, ulong length)
    {
        using var turn = EnterTurn();
        return space.Exited ? Errno.ESRCH : MlockCalls.Unlock(_kernel, space, start, length);
    }

    public SyscallResult MlockAll(AddressSpace space, uint flags)
    {
        using var turn = EnterTurn();
        return space.Exited ? Errno.ESRCH : MlockCalls.LockAll(_kernel, space, flags);
    }

    public SyscallResult MunlockAll(AddressSpace space)
    {
        using var turn = EnterTurn();
        return space.Exited ? Errno.ESRCH : MlockCalls.UnlockAll(_kernel, space);
    }

    /// <summary>brk: 0 asks for the present break.</summary>
    public SyscallResult Brk(AddressSpace space, ulong wanted)
    {
        using var turn = EnterTurn();
        return space.Exited ? Errno.ESRCH : SyscallResult.Ok(BrkCall.Run(_kernel, space, wanted));
    }

    public SyscallResult Mseal(AddressSpace space, ulong start, ulong length, ulong flags)
    {
        using var turn = EnterTurn();
        return space.Exited ? Errno.ESRCH : MsealCall.Run(_kernel, space, start, length, flags);
    }

    public SyscallResult Msync(AddressSpace space, ulong start, ulong length, MsyncFlags flags)
    {
        using var turn = EnterTurn();
        return space.Exited ? Errno.ESRCH : MsyncCall.Run(_kernel, space, start, length, flags);
    }

    /// <summary>
    /// mincore: one byte a page of <paramref name="length"/> bytes into <paramref name="residency"/>.
    /// </summary>
    public SyscallResult Mincore(AddressSpace space, ulong start, ulong length, Span<byte> residency)
    {
        using var turn = EnterQuery();
        return space.Exited ? Errno.ESRCH : MincoreCall.Run(_kernel, space, start, length, residency);
    }

    /// <summary>A load or store of one byte at <paramref name="address"/>.</summary>
    public UserSignal Touch(AddressSpace space, ulong address, bool isWrite)
    {
        using var turn = EnterTurn();
        return space.Exited ? UserSignal.SigSegvMapErr : UserAccess.Touch(_kernel, space, address, isWrite, out _);
    }

    /// <summary>
    /// Touches every page of the range that starts at <paramref name="start"/>; the pages done before a signal.
    /// </summary>
    public long TouchRange(AddressSpace space, ulong start, long pages, bool isWrite, out UserSignal signal)
    {
        using var turn = EnterTurn();
        signal = space.Exited ? UserSignal.SigSegvMapErr : UserSignal.None;
        for (var i = 0L; i < pages && signal == UserSignal.None; i++)
        {
            var address = start + ((ulong)i << PageGeometry.PageShift);
            signal = UserAccess.Touch(_kernel, space, address, isWrite, out _);
            if (signal != UserSignal.None) return i;
        }

        return signal == UserSignal.None ? pages : 0;
    }

    /// <summary>Loads bytes; fewer than the buffer holds came with a signal.</summary>
    public int Read(AddressSpace space, ulong address, Span<byte> buffer, out UserSignal signal)
    {
        using var turn = EnterTurn();
        signal = UserSignal.SigSegvMapErr;
        return space.Exited ? 0 : UserAccess.Copy(_kernel, space, address, buffer, isWrite: false, out signal);
    }

    /// <summary>Stores bytes; fewer than the buffer holds came with a signal.</summary>
    public int Write(AddressSpace space, ulong address, ReadOnlySpan<byte> bytes, out UserSignal signal)
    {
        using var turn = EnterTurn();
        signal = UserSignal.SigSegvMapErr;
        if (space.Exited) return 0;
        // The copy helper works in both directions on one span; it only reads from this one.
        var source = System.Runtime.InteropServices.MemoryMarshal.CreateSpan(
            ref System.Runtime.InteropServices.MemoryMarshal.GetReference(bytes), bytes.Length);
        return UserAccess.Copy(_kernel, space, address, source, isWrite: true, out signal);
    }

    /// <summary>
    /// Puts a mapping that exec made into place, as a recording or a live process shows it. -EEXIST over another.
    /// </summary>
    public Errno InstallMapping(AddressSpace space, InstalledMapping mapping)
    {
        using var turn = EnterTurn();
        return space.Exited ? Errno.ESRCH : Install(space, mapping);
    }

    /// <summary>
    /// /proc/PID/clear_refs with 4: which pages were stored to counts from now on. Nothing without such a kernel.
    /// </summary>
    public Errno ClearSoftDirty(AddressSpace space)
    {
        using var turn = EnterTurn();
        if (space.Exited) return Errno.ESRCH;
        ClearRefsCall.ClearSoftDirty(_kernel, space);
        return Errno.None;
    }

    private AddressSpace? NewSpace(string name, AddressSpaceLayout layout, TaskState task)
    {
        if (PageTable.Create(_kernel.Tables) is not { } table) return null;
        var space = new AddressSpace(++_nextSpace, name, table, layout, task);
        space.CutLeaf = address => Mapping.SplitAt(_kernel, space, address);
        _kernel.Spaces.Add(space);
        return space;
    }

    private Errno Install(AddressSpace space, InstalledMapping mapping)
    {
        if (mapping.Kind == InstalledKind.Vsyscall)
        {
            space.HasVsyscall = true;
            return Errno.None;
        }

        var range = mapping.Range;
        if (range.IsEmpty || range.End > PageGeometry.TaskSize) return Errno.EINVAL;
        if (((range.Start | range.End | mapping.Offset) & ~PageGeometry.PageMask) != 0) return Errno.EINVAL;
        if (space.Vmas.Intersects(range)) return Errno.EEXIST;
        if (mapping.Kind == InstalledKind.Stack) space.StackStart = range.End - PageGeometry.PageSize;
        VmaMerge.InsertOrMerge(space, new Vma
        {
            Start = range.Start,
            End = range.End,
            Flags = mapping.VmFlags | _kernel.NewArea,
            PageOffset = mapping.File is null
                ? range.Start >> PageGeometry.PageShift
                : mapping.Offset >> PageGeometry.PageShift,
            File = mapping.File,
            SpecialName = mapping.SpecialName,
            HugeOrder = mapping.File?.Order ?? 0,
        });
        return Errno.None;
    }
}

/// <summary>What kind of mapping exec left behind.</summary>
public enum InstalledKind
{
    Ordinary,
    Stack,
    Vdso,
    Vvar,
    VvarClock,
    Vsyscall,
}

/// <summary>A mapping to put into place as it stands in /proc/PID/maps.</summary>
public sealed record InstalledMapping
{
    public required AddressRange Range { get; init; }

    public required Prot Prot { get; init; }

    public InstalledKind Kind { get; init; }

    /// <summary>Shared ('s' in maps).</summary>
    public bool IsShared { get; init; }

    public MemoryFile? File { get; init; }

    /// <summary>The shared file was not opened for writing.</summary>
    public bool IsReadOnlyFile { get; init; }

    /// <summary>Byte offset in the file.</summary>
    public ulong Offset { get; init; }

    /// <summary>Flags beyond protection and sharing (VmFlags of smaps), such as NORESERVE or DONTCOPY.</summary>
    public VmFlags Extra { get; init; }

    internal string? SpecialName => Kind switch
    {
        InstalledKind.Vdso => "[vdso]",
        InstalledKind.Vvar => "[vvar]",
        InstalledKind.VvarClock => "[vvar_vclock]",
        _ => null,
    };

    internal VmFlags VmFlags
    {
        get
        {
            var flags = (VmFlags)(Prot & Prot.AccessMask) | VmFlags.MayRead | VmFlags.MayWrite | VmFlags.MayExec
                | Extra;
            if (IsShared)
            {
                flags |= VmFlags.MayShare | VmFlags.Shared;
                if (IsReadOnlyFile) flags &= ~(VmFlags.MayWrite | VmFlags.Shared);
            }
            else if ((Prot & Prot.Write) != 0 && (Extra & VmFlags.NoReserve) == 0)
            {
                flags |= VmFlags.Account;
            }

            return Kind switch
            {
                InstalledKind.Stack => flags | VmFlags.GrowsDown | VmFlags.Account,
                InstalledKind.Vdso => flags | VmFlags.DontExpand,
                InstalledKind.Vvar or InstalledKind.VvarClock => (flags & ~(VmFlags.MayWrite | VmFlags.MayExec))
                    | VmFlags.Io | VmFlags.PfnMap | VmFlags.DontExpand | VmFlags.DontDump,
                _ => flags,
            };
        }
    }
}
