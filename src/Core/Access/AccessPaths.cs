using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Inspection;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;

namespace FramePin.Core.Access;

/// <summary>
/// The paths by which other parts of the kernel reach a process's memory, each with the GUP call that it makes. A
/// result is a count of bytes or an errno, as the system call answers it.
/// </summary>
/// <remarks>
/// Each call is made of pins and commands of its own: between them other commands may run. A call waits at a fault of a
/// handler outside by its <see cref="FaultWait"/>; one without it is killed there.
/// </remarks>
public static class AccessPaths
{
    /// <summary>Bytes that one call moves at most (MAX_RW_COUNT).</summary>
    private const ulong MaxReadWrite = int.MaxValue & PageGeometry.PageMask;

    /// <summary>
    /// vmsplice into a pipe with room for <paramref name="room"/> pages: GET, read, again from where the last call
    /// stopped until nothing more can be had. Source: fs/splice.c: iter_to_pipe.
    /// </summary>
    /// <param name="host">The machine.</param>
    /// <param name="space">The address space.</param>
    /// <param name="address">First byte.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="room">Free buffers of the pipe, a page each.</param>
    /// <param name="buffers">Gets one vector for each GUP call, which the caller puts and destroys.</param>
    /// <param name="wait">Waits at a fault.</param>
    /// <returns>Bytes that the pipe holds now, or the errno of the first page.</returns>
    public static SyscallResult Vmsplice(
        this IPinHost host, SpaceId space, ulong address, ulong length, int room, ICollection<FrameVector> buffers,
        FaultWait? wait = null)
    {
        // import_iovec
        if (length > long.MaxValue) return Errno.EINVAL;
        if (host.Profile.CutsSegmentBeforeCheck) length = Math.Min(length, MaxReadWrite);
        if (length > host.TaskSize || address > host.TaskSize - length) return Errno.EFAULT;
        var done = 0UL;
        while (done < length && room > 0)
        {
            var at = address + done;
            var pages = Math.Min(PagesBetween(at, length - done), room);
            if (host.CreateVector(pages) is not { } vector) return Errno.ENOMEM;
            var request = new PinRequest(space, at, pages, GupFlags.None) { Call = GupCall.GetUserPagesFast };
            var result = host.PinToEnd(request, vector, wait);
            if (result.Error != Errno.None || result.Pages == 0)
            {
                host.DestroyVector(vector);
                return done > 0 ? SyscallResult.Ok(done) : Errno.EFAULT;
            }

            buffers.Add(vector);
            room -= (int)result.Pages;
            var end = done + ((ulong)result.Pages << PageGeometry.PageShift) - (at & ~PageGeometry.PageMask);
            done = Math.Min(end, length);
        }

        return SyscallResult.Ok(done);
    }

    /// <summary>
    /// process_vm_readv and process_vm_writev by another process: PIN, remote. Pages before the first that cannot be
    /// had count. Source: mm/process_vm_access.c: process_vm_rw_single_vec.
    /// </summary>
    public static SyscallResult ProcessVm(
        this IPinHost host, SpaceId space, ulong address, Span<byte> buffer, bool isWrite, FaultWait? wait = null) =>
        CopyPinned(host, space, GupCall.PinUserPagesRemote, address, buffer, isWrite, wait);

    /// <summary>
    /// A direct transfer between user memory and a disk file: PIN fast, all of it. <paramref name="isRead"/>: the file
    /// is read, user memory written. Source: block/bio.c: bio_iov_iter_get_pages.
    /// </summary>
    public static SyscallResult DirectIo(
        this IPinHost host, SpaceId space, ulong address, Span<byte> buffer, bool isRead, FaultWait? wait = null)
    {
        var call = host.Profile.DirectIoPins ? GupCall.PinUserPagesFast : GupCall.GetUserPagesFast;
        var done = 0;
        while (done < buffer.Length)
        {
            // The pages pinned so far take part in the transfer; the rest is pinned anew, until nothing can be had.
            var part = CopyPinned(host, space, call, address + (ulong)done, buffer[done..], isRead, wait);
            if (!part.IsOk)
            {
                // With something to transfer the block layer tries twice more: in the next bio and the next mapping.
                for (var again = 0; again < 2 && done > 0; again++)
                    CopyPinned(host, space, call, address + (ulong)done, buffer[done..], isRead, wait);
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
    /// <param name="host">The machine.</param>
    /// <param name="space">The address space.</param>
    /// <param name="address">First byte.</param>
    /// <param name="buffer">Receives the bytes, or holds them.</param>
    /// <param name="isWrite">A store.</param>
    /// <param name="actor">
    /// Limits of the process that reads or writes, for a stack that grows; null for the owner's own.
    /// </param>
    public static SyscallResult ProcMem(
        this IPinHost host, SpaceId space, ulong address, Span<byte> buffer, bool isWrite, TaskState? actor = null)
    {
        if (address > long.MaxValue) return Errno.EINVAL;
        var flags = GupFlags.Force | (isWrite ? GupFlags.Write : 0);
        using var held = new HeldVector(host, 1);
        var done = 0;
        while (done < buffer.Length)
        {
            var at = address + (ulong)done;
            if (!host.Call(new GrowStackCall(space, at, actor)).IsOk) break;
            var within = at & ~PageGeometry.PageMask;
            var part = buffer.Slice(done, Math.Min(buffer.Length - done, (int)(PageGeometry.PageSize - within)));
            var request = new PinRequest(space, at, 1, flags) { Call = GupCall.GetUserPagesRemote };
            // __access_remote_vm holds mmap_lock on: a handler outside is not asked.
            if (host.PinToEnd(request, held.Vector, wait: null).Pages != 1)
            {
                if (!host.Call(new AccessRawCall(space, at, part, isWrite)).IsOk) break;
                done += part.Length;
                continue;
            }

            var copied = host.CopyFrames(held.Vector, within, part, isWrite, out _);
            host.Put(held.Vector, isDirty: isWrite);
            done += copied;
            if (copied < part.Length) break;
        }

        return done > 0 ? SyscallResult.Ok((ulong)done) : Errno.EIO;
    }

    /// <summary>
    /// FUTEX_WAKE of a shared futex on which nothing waits: finds the page for writing, else for reading
    /// (kernel/futex/core.c: get_futex_key).
    /// </summary>
    public static SyscallResult FutexWake(this IPinHost host, SpaceId space, ulong address, FaultWait? wait = null)
    {
        if ((address & 3) != 0) return Errno.EINVAL;
        if (address >= host.TaskSize) return Errno.EFAULT;
        using var held = new HeldVector(host, 1);
        var request = new PinRequest(space, address, 1, GupFlags.Write) { Call = GupCall.GetUserPagesFast };
        if (host.PinToEnd(request, held.Vector, wait).Error == Errno.None) return SyscallResult.Ok();
        var result = host.PinToEnd(request with { Flags = GupFlags.None }, held.Vector, wait);
        if (result.Error != Errno.None) return result.Error;
        // A page that the first write may replace is no key: an anonymous page, or the zero page.
        var page = host.Query<VectorPagesQuery, IReadOnlyList<PageView>>(new(held.Vector, 0, 1))[0];
        return (page.Flags & Frames.FrameFlags.InCache) != 0 ? SyscallResult.Ok() : Errno.EFAULT;
    }

    /// <summary>
    /// copy_from_user and copy_to_user of a system call: the bytes before the first page that cannot be had, -EFAULT
    /// when there are none.
    /// </summary>
    public static SyscallResult CopyUser(
        this IPinHost host, SpaceId space, ulong address, Span<byte> buffer, bool isWrite, FaultWait? wait = null)
    {
        var done = 0;
        while (true)
        {
            var at = address + (ulong)done;
            var rest = buffer[done..];
            var result = isWrite
                ? host.Execute<StoreCall, AccessResult>(new(space, at, rest))
                : host.Execute<LoadCall, AccessResult>(new(space, at, rest));
            done += (int)result.Done;
            if (result.Signal == UserSignal.WaitsForHandler && wait is not null
                && wait(space, address + (ulong)done)) continue;
            return done > 0 || buffer.IsEmpty ? SyscallResult.Ok((ulong)done) : Errno.EFAULT;
        }
    }

    /// <summary>
    /// vb2_create_framevec: a vector for the pages of [start, start + length) bytes, all of them or none (Semantics
    /// 2.9). Null with the errno; the caller puts and destroys the vector.
    /// </summary>
    public static FrameVector? CreateFramevec(
        this IPinHost host, SpaceId space, ulong start, ulong length, bool isWrite, out Errno error)
    {
        var first = start >> PageGeometry.PageShift;
        var last = unchecked(start + length - 1) >> PageGeometry.PageShift;
        var pages = unchecked(last - first + 1);
        // create and get take 32-bit counts: the kernel truncates, and compares with the whole value afterwards.
        var truncated = (long)(uint)pages;
        error = Errno.ENOMEM;
        if (host.CreateVector(truncated) is not { } vector) return null;
        var flags = (isWrite ? GupFlags.Write : 0) | (host.Profile.Era <= HelperEra.C ? GupFlags.Force : 0);
        var outcome = host.Pin(new PinRequest(space, start & PageGeometry.PageMask, truncated, flags), vector);
        error = outcome.Result.Error;
        if (error == Errno.None && (ulong)outcome.Result.Pages == pages) return vector;
        if (error == Errno.None) error = Errno.EFAULT;
        host.Put(vector, isDirty: false);
        host.DestroyVector(vector);
        return null;
    }

    internal static long PagesBetween(ulong address, ulong length) =>
        (long)PageGeometry.PagesOf((address & ~PageGeometry.PageMask) + length);

    /// <summary>Pins, copies the pages that it got, unpins: dirty where the memory was written.</summary>
    private static SyscallResult CopyPinned(
        IPinHost host, SpaceId space, GupCall call, ulong address, Span<byte> buffer, bool isWrite, FaultWait? wait)
    {
        if (buffer.IsEmpty) return SyscallResult.Ok();
        var pages = PagesBetween(address, (ulong)buffer.Length);
        using var held = new HeldVector(host, pages);
        var flags = isWrite ? GupFlags.Write : GupFlags.None;
        var request = new PinRequest(space, address, pages, flags) { Call = call, Locked = LockedArgument.Held };
        var result = host.PinToEnd(request, held.Vector, wait);
        if (result.Error != Errno.None || result.Pages == 0) return Errno.EFAULT;
        var within = address & ~PageGeometry.PageMask;
        var bytes = Math.Min((ulong)buffer.Length, ((ulong)result.Pages << PageGeometry.PageShift) - within);
        var done = host.CopyFrames(held.Vector, within, buffer[..(int)bytes], isWrite, out _);
        if (isWrite) host.Put(held.Vector, isDirty: true);
        return SyscallResult.Ok((ulong)done);
    }
}
