using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Faults;
using FramePin.Core.Frames;
using FramePin.Core.Kernel;

namespace FramePin.Core.Syscalls;

/// <summary>
/// pread: the bytes copied, fewer at the end of the file or when memory is out; a hole reads as zeroes.
/// </summary>
/// <param name="file">The file.</param>
/// <param name="offset">First byte.</param>
/// <param name="buffer">Receives the bytes.</param>
/// <remarks>
/// -ESPIPE for secret memory, which has no read; -EINVAL for an end at or behind 2^63; -EIO for a broken page.
/// </remarks>
public readonly ref struct ReadFileCall(FileId file, ulong offset, Span<byte> buffer) : ISyscall<ReadFileCall>
{
    private readonly Span<byte> _buffer = buffer;

    public SyscallResult Run(in Turn turn)
    {
        var kernel = turn.Kernel;
        if (kernel.File(file) is not { } read) return Errno.EBADF;
        if (offset > long.MaxValue) return Errno.EINVAL;
        // alloc_file_pseudo without a read method: no FMODE_PREAD.
        if (read.Kind == FileKind.Secret) return Errno.ESPIPE;
        if (!FileCalls.IsInOffsets(offset, (ulong)_buffer.Length)) return Errno.EINVAL;
        var done = 0;
        while (done < _buffer.Length && offset + (ulong)done < read.Size)
        {
            var at = offset + (ulong)done;
            var within = (int)(at & ~PageGeometry.PageMask);
            var inPage = Math.Min(_buffer.Length - done, (int)PageGeometry.PageSize - within);
            var part = _buffer.Slice(done, (int)Math.Min((ulong)inPage, read.Size - at));
            var index = at >> PageGeometry.PageShift;
            if (FileCalls.IsBroken(kernel, read, index)) return done > 0 ? SyscallResult.Ok((ulong)done) : Errno.EIO;
            if (!ReadPart(kernel, read, index, within, part)) break;
            done += part.Length;
        }

        return SyscallResult.Ok((ulong)done);
    }

    public void Write(CommandWriter writer) => writer.Add(file).Add(offset).Add(_buffer.Length);

    public static ReadFileCall Read(ref CommandReader reader) =>
        new(reader.File(), reader.U64(), reader.Room());

    private static bool ReadPart(KernelState kernel, MemoryFile file, ulong index, int within, Span<byte> part)
    {
        // A page in swap comes back into the file (shmem_get_folio).
        var isInSwap = file.Kind == FileKind.Shmem && file.Stored(index) is not null;
        if (isInSwap && FaultHandler.FindOrAddPage(kernel, null, file, index, 0, AllocationContext.Movable) is null)
            return false;
        if (file.Lookup(index) is { } pfn) kernel.Memory.Bytes.Of(pfn).Slice(within, part.Length).CopyTo(part);
        else if (file.Stored(index) is { } stored) stored.AsSpan(within, part.Length).CopyTo(part);
        else part.Clear();
        return true;
    }
}

/// <summary>
/// pwrite: the bytes done, and the file extended as needed. Fewer bytes, or -ENOSPC for none, when memory is out.
/// </summary>
/// <param name="file">The file.</param>
/// <param name="offset">First byte.</param>
/// <param name="bytes">The bytes.</param>
/// <remarks>
/// -EPERM for a sealed file, -ESPIPE for secret memory, -EINVAL for hugetlbfs: those have no write. -EINVAL for an end
/// at or behind 2^63, -EFBIG at and behind the end of what a file may have, -EIO for a broken page.
/// </remarks>
public readonly ref struct WriteFileCall(FileId file, ulong offset, ReadOnlySpan<byte> bytes)
    : ICommand<WriteFileCall, WriteFileResult>
{
    private readonly ReadOnlySpan<byte> _bytes = bytes;

    public WriteFileResult Run(in Turn turn)
    {
        var kernel = turn.Kernel;
        if (kernel.File(file) is not { } written) return new(0, Errno.EBADF);
        var limit = FileCalls.LimitOf(written.Kind);
        var error = Check(written, limit);
        if (error != Errno.None) return new(0, error);
        // generic_write_checks: a write that reaches over the end of what a file may have is cut there.
        var length = (int)Math.Min((ulong)_bytes.Length, limit - Math.Min(offset, limit));
        var done = 0;
        while (done < length)
        {
            var at = offset + (ulong)done;
            var within = (int)(at & ~PageGeometry.PageMask);
            var part = _bytes.Slice(done, Math.Min(length - done, (int)PageGeometry.PageSize - within));
            var index = at >> PageGeometry.PageShift;
            if (FileCalls.IsBroken(kernel, written, index)) return new(done, Errno.EIO);
            if (FaultHandler.FindOrAddPage(kernel, null, written, index, 0, AllocationContext.Movable) is not { } pfn)
                return new(done, Errno.ENOSPC);
            if (at > written.Size) FileCalls.ZeroTail(kernel, written, written.Size, at);
            part.CopyTo(kernel.Memory.Bytes.Of(pfn)[within..]);
            kernel.Memory.MarkDirty(pfn);
            done += part.Length;
            written.Size = Math.Max(written.Size, at + (ulong)part.Length);
        }

        return new(done, Errno.None);
    }

    /// <summary>Refusals in the kernel's order: offsets and methods in vfs_write, then the file system's.</summary>
    private Errno Check(MemoryFile written, ulong limit)
    {
        if (offset > long.MaxValue) return Errno.EINVAL;
        if (written.Kind == FileKind.Secret) return Errno.ESPIPE;
        if (written.Kind == FileKind.HugeTlb) return Errno.EINVAL;
        if (!FileCalls.IsInOffsets(offset, (ulong)_bytes.Length)) return Errno.EINVAL;
        // generic_write_checks ends for no bytes, before limit and seals are asked.
        if (_bytes.Length == 0) return Errno.None;
        if (offset >= limit) return Errno.EFBIG;
        return written.WriteSealed ? Errno.EPERM : Errno.None;
    }

    public void Write(CommandWriter writer) => writer.Add(file).Add(offset).Add(_bytes);

    public static WriteFileCall Read(ref CommandReader reader) => new(reader.File(), reader.U64(), reader.Bytes());
}

/// <summary>What a write to a file came to.</summary>
/// <param name="Done">Bytes written.</param>
/// <param name="Error">Why fewer were written than asked for, or none.</param>
public readonly record struct WriteFileResult(int Done, Errno Error);
