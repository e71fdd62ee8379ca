using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Core.Machines;

/// <summary>
/// The paths by which other parts of the kernel reach a process's memory, each with the GUP call that it makes. A
/// result is a count of bytes or an errno, as the system call answers it.
/// </summary>
public sealed partial class Machine
{
    /// <summary>
    /// vmsplice into a pipe with room for <paramref name="room"/> pages: GET, read, again from where the last call
    /// stopped until nothing more can be had. Source: fs/splice.c: iter_to_pipe.
    /// </summary>
    /// <param name="space">Whose memory.</param>
    /// <param name="address">First byte.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="room">Free buffers of the pipe, a page each.</param>
    /// <param name="buffers">Gets one vector for each GUP call, which the caller puts and destroys.</param>
    /// <returns>Bytes that the pipe holds now, or the errno of the first page.</returns>
    public SyscallResult Vmsplice(
        AddressSpace space, ulong address, ulong length, int room, ICollection<FrameVector> buffers)
    {
        var done = 0UL;
        while (done < length && room > 0)
        {
            var at = address + done;
            var pages = Math.Min(PagesBetween(at, length - done), room);
            if (CreateVector(pages) is not { } vector) return Errno.ENOMEM;
            var result = GupAtOnce(
                space, GupCall.GetUserPagesFast, at, pages, GupFlags.None, LockedArgument.Null, vector);
            if (result.Error != Errno.None || result.Pages == 0)
            {
                DestroyVector(vector);
                return done > 0 ? SyscallResult.Ok(done) : Errno.EFAULT;
            }

            buffers.Add(vector);
            room -= (int)result.Pages;
            done = Math.Min(
                done + ((ulong)result.Pages << PageGeometry.PageShift) - (at & ~PageGeometry.PageMask), length);
        }

        return SyscallResult.Ok(done);
    }

    /// <summary>
    /// process_vm_readv and process_vm_writev by another process: PIN, remote. Pages before the first that cannot be
    /// had count. Source: mm/process_vm_access.c: process_vm_rw_single_vec.
    /// </summary>
    public SyscallResult ProcessVm(AddressSpace space, ulong address, Span<byte> buffer, bool isWrite) =>
        CopyPinned(space, GupCall.PinUserPagesRemote, address, buffer, isWrite);

    /// <summary>
    /// A direct transfer between user memory and a disk file: PIN fast, all of it. <paramref name="isRead"/>: the file
    /// is read, user memory written. Source: block/bio.c: bio_iov_iter_get_pages.
    /// </summary>
    public SyscallResult DirectIo(AddressSpace space, ulong address, Span<byte> buffer, bool isRead)
    {
        var call = Profile.DirectIoPins ? GupCall.PinUserPagesFast : GupCall.GetUserPagesFast;
        var done = 0;
        while (done < buffer.Length)
        {
            // What was pinned so far takes part in the transfer; the rest is pinned anew, until nothing more can be
            // had.
            var part = CopyPinned(space, call, address + (ulong)done, buffer[done..], isRead);
            if (!part.IsOk)
            {
                // With something to transfer the block layer tries twice more: in the next bio and in the next mapping.
                for (var again = 0; again < 2 && done > 0; again++)
                    CopyPinned(space, call, address + (ulong)done, buffer[done..], isRead);
                return SyscallResult.Fail(Errno.EFAULT, isPartial: done > 0);
            }

            done += (int)part.Value;
        }

        return SyscallResult.Ok((ulong)done);
    }

    /// <summary>
    /// pread and pwrite of /proc/PID/mem: GET, remote, FORCE, page by page; grows a stack. -EIO when the first byte
    /// cannot be had. Source: fs/proc/base.c: mem_rw; mm/memory.c: __access_remote_vm.
    /// </summary>
    /// <param name="space">Whose memory.</param>
    /// <param name="address">First byte.</param>
    /// <param name="buffer">Receives the bytes, or holds them.</param>
    /// <param name="isWrite">A store.</param>
    /// <param name="actor">Limits of the process that reads or writes, for a stack that grows; null for the owner's
    /// own.</param>
    public SyscallResult ProcMem(
        AddressSpace space, ulong address, Span<byte> buffer, bool isWrite, TaskState? actor = null)
    {
        if (address > long.MaxValue) return Errno.EINVAL;
        var flags = GupFlags.Force | (isWrite ? GupFlags.Write : 0);
        using var held = new HeldVector(this, 1);
        var done = 0;
        while (done < buffer.Length)
        {
            var at = address + (ulong)done;
            if (!GrowStack(space, at, actor)) break;
            var within = at & ~PageGeometry.PageMask;
            var part = buffer.Slice(done, Math.Min(buffer.Length - done, (int)(PageGeometry.PageSize - within)));
            if (GupAtOnce(space, GupCall.GetUserPagesRemote, at, 1, flags, LockedArgument.Null, held.Vector).Pages != 1)
            {
                if (!AccessRaw(space, at, part, isWrite)) break;
                done += part.Length;
                continue;
            }

            var copied = CopyFrames(held.Vector, within, part, isWrite, out _);
            if (isWrite) PutVaddrFramesDirty(held.Vector);
            else PutVaddrFrames(held.Vector);
            done += copied;
            if (copied < part.Length) break;
        }

        return done > 0 ? SyscallResult.Ok((ulong)done) : Errno.EIO;
    }

    /// <summary>
    /// FUTEX_WAKE of a shared futex that nobody waits for: finds the page for writing, else for reading
    /// (kernel/futex/core.c: get_futex_key).
    /// </summary>
    public SyscallResult FutexWake(AddressSpace space, ulong address)
    {
        if ((address & 3) != 0) return Errno.EINVAL;
        if (address >= PageGeometry.TaskSize) return Errno.EFAULT;
        using var held = new HeldVector(this, 1);
        var result = GupAtOnce(
            space, GupCall.GetUserPagesFast, address, 1, GupFlags.Write, LockedArgument.Null, held.Vector);
        if (result.Error == Errno.None) return SyscallResult.Ok();
        result = GupAtOnce(
            space, GupCall.GetUserPagesFast, address, 1, GupFlags.None, LockedArgument.Null, held.Vector);
        if (result.Error != Errno.None) return result.Error;
        // A page that may be replaced by the first write is no key: anonymous, or the zero page.
        var page = ViewPages(held.Vector, 0, 1)[0];
        return (page.Flags & Frames.FrameFlags.InCache) != 0 ? SyscallResult.Ok() : Errno.EFAULT;
    }

    /// <summary>
    /// FUTEX_WAKE_OP of private futexes that nobody waits for, with an operation that adds nothing: the second word is
    /// written under a lock, and its page is made writable first when it is not (kernel/futex/waitwake.c:
    /// futex_wake_op).
    /// </summary>
    public SyscallResult FutexWakeOp(AddressSpace space, ulong address)
    {
        if ((address & 3) != 0) return Errno.EINVAL;
        if (address >= PageGeometry.TaskSize) return Errno.EFAULT;
        using var turn = EnterTurn();
        if (space.Exited) return Errno.ESRCH;
        while (!UserAccess.CanWriteWithoutFault(space, address))
        {
            var error = UserAccess.FixupFault(_kernel, space, address, isWrite: true, mayDropLock: false, out _);
            if (error != Errno.None) return error;
        }

        UserAccess.Touch(_kernel, space, address, isWrite: true, out _);
        return SyscallResult.Ok();
    }

    /// <summary>
    /// fixup_user_fault: makes the page at <paramref name="address"/> accessible as a user's own access would, without
    /// taking it. -EFAULT where there is no area or no permission, -EINTR behind a fatal signal.
    /// </summary>
    /// <param name="space">Whose memory.</param>
    /// <param name="address">Any byte of the page.</param>
    /// <param name="isWrite">Whether it is to be writable.</param>
    /// <param name="unlocked">True when the lock was dropped meanwhile, so that areas looked up before are stale; it is
    /// held again.</param>
    /// <remarks>Source: mm/gup.c: fixup_user_fault; row 74.</remarks>
    public Errno FixupUserFault(AddressSpace space, ulong address, bool isWrite, out bool unlocked)
    {
        using var turn = EnterTurn();
        unlocked = false;
        return space.Exited ? Errno.EFAULT
            : UserAccess.FixupFault(_kernel, space, address, isWrite, mayDropLock: true, out unlocked);
    }

    /// <summary>
    /// move_pages without targets: for each page 0 (its node), -ENOENT when it is absent, -EFAULT outside every area or
    /// for the zero page. Source: mm/migrate.c: do_pages_stat_array.
    /// </summary>
    public Errno[] QueryNodes(AddressSpace space, ulong address, int pages)
    {
        using var turn = EnterQuery();
        var result = new Errno[pages];
        for (var i = 0; i < pages; i++)
        {
            var at = address + ((ulong)i << PageGeometry.PageShift);
            var vma = space.Exited ? null : space.Vmas.Find(at);
            result[i] = vma is null ? Errno.EFAULT : QueryNode(space, vma, at);
        }

        return result;
    }

    /// <summary>
    /// copy_from_user and copy_to_user of a system call: the bytes before the first page that cannot be had, -EFAULT
    /// when there are none.
    /// </summary>
    public SyscallResult CopyUser(AddressSpace space, ulong address, Span<byte> buffer, bool isWrite)
    {
        var done = isWrite ? Write(space, address, buffer, out _) : Read(space, address, buffer, out _);
        return done > 0 || buffer.IsEmpty ? SyscallResult.Ok((ulong)done) : Errno.EFAULT;
    }

    /// <summary>
    /// vm_ops->access of memory without pages (mm/memory.c: generic_access_phys): by physical address, as far as the
    /// entry allows.
    /// </summary>
    private bool AccessRaw(AddressSpace space, ulong address, Span<byte> part, bool isWrite)
    {
        using var turn = EnterTurn();
        if (space.Exited || space.Vmas.Find(address) is not { Device: not null } vma || !vma.Has(VmFlags.PfnMap))
            return false;
        var entry = space.PageTable.Read(address);
        if ((entry & PageTables.Pte.RawPfn) == 0 || (isWrite && (entry & PageTables.Pte.Write) == 0)) return false;
        var pfn = PageTables.Pte.PfnOf(entry);
        var within = (int)(address & ~PageGeometry.PageMask);
        if (!_kernel.Memory.Frames.IsValid(pfn))
        {
            if (!isWrite) part.Fill(0xff);
            return true;
        }

        var bytes = _kernel.Memory.Bytes.Of(pfn).Slice(within, part.Length);
        if (isWrite) part.CopyTo(bytes);
        else bytes.CopyTo(part);
        return true;
    }

    private Errno QueryNode(AddressSpace space, Vma vma, ulong address)
    {
        var slot = space.PageTable.Find(address);
        var entry = slot.Exists ? space.PageTable[slot] : 0;
        if (Profile.NodeQueryDumps)
        {
            // FOLL_DUMP: what would only be filled with zeroes is an error; memory without access is not looked
            // through.
            if (entry == 0) return vma.IsAnonymous || vma.Device is not null ? Errno.EFAULT : Errno.ENOENT;
            if (!vma.HasAny(VmFlags.AccessMask) || vma.File is { Kind: FileKind.Secret }) return Errno.ENOENT;
        }

        if (!PageTables.Pte.IsMapped(entry)) return Errno.ENOENT;
        var isZero = PageTables.Pte.PfnOf(entry) == _kernel.Memory.ZeroPage
            || PageTables.Pte.PfnOf(entry) == _kernel.HugeZero;
        if (isZero && !vma.Has(VmFlags.PfnMap)) return Errno.EFAULT;
        if ((entry & PageTables.Pte.Special) == 0) return Errno.None;
        return Profile.NodeQueryDumps ? Errno.EFAULT : Errno.ENOENT;
    }

    private static long PagesBetween(ulong address, ulong length) =>
        (long)PageGeometry.PagesOf((address & ~PageGeometry.PageMask) + length);

    /// <summary>Pins, copies what was had, unpins: dirty where the memory was written.</summary>
    private SyscallResult CopyPinned(AddressSpace space, GupCall call, ulong address, Span<byte> buffer, bool isWrite)
    {
        if (buffer.IsEmpty) return SyscallResult.Ok();
        var pages = PagesBetween(address, (ulong)buffer.Length);
        using var held = new HeldVector(this, pages);
        var flags = isWrite ? GupFlags.Write : GupFlags.None;
        var result = GupAtOnce(space, call, address, pages, flags, LockedArgument.Held, held.Vector);
        if (result.Error != Errno.None || result.Pages == 0) return Errno.EFAULT;
        var within = address & ~PageGeometry.PageMask;
        var bytes = Math.Min((ulong)buffer.Length, ((ulong)result.Pages << PageGeometry.PageShift) - within);
        var done = CopyFrames(held.Vector, within, buffer[..(int)bytes], isWrite, out _);
        if (isWrite) PutVaddrFramesDirty(held.Vector);
        return SyscallResult.Ok((ulong)done);
    }

    /// <summary>
    /// An address between a stack and what is below it belongs to the stack; false when it belongs to nobody.
    /// </summary>
    private bool GrowStack(AddressSpace space, ulong address, TaskState? actor)
    {
        using var turn = EnterTurn();
        if (space.Exited || address >= PageGeometry.TaskSize) return false;
        if (space.Vmas.FindFrom(address) is not { } vma) return false;
        return vma.Start <= address
            || (vma.Has(VmFlags.GrowsDown) && StackGrowth.Expand(_kernel, space, vma, address, actor));
    }

    /// <summary>A vector for the length of one call: put and destroyed at its end.</summary>
    private readonly ref struct HeldVector(Machine machine, long slots)
    {
        public FrameVector Vector { get; } = machine.CreateVector(slots)
            ?? throw new ArgumentOutOfRangeException(nameof(slots));

        public void Dispose()
        {
            machine.PutVaddrFrames(Vector);
            machine.DestroyVector(Vector);
        }
    }
}
