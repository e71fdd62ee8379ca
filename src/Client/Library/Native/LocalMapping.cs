using System.ComponentModel;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using FramePin.V1;
using Microsoft.Win32.SafeHandles;

namespace FramePin.Client.Native;

/// <summary>Receives a descriptor (SCM_RIGHTS) and maps it; the one room of the library that calls libc.</summary>
internal sealed unsafe partial class LocalMapping : IDisposable
{
    private const ulong PageSize = 4096;
    private const int ProtNone = 0;
    private const int ProtRead = 1;
    private const int ProtWrite = 2;
    private const int MapShared = 1;
    private const int MapNoReserve = 0x4000;
    private const int MapPrivateAnonymousNoReserve = 0x4022;
    private const int MapFixed = 0x10;
    private const int CloseOnExec = 0x4000_0000;

    private readonly byte* _base;
    private readonly nuint _length;

    /// <summary>What this is a part of, and leaves to it to be unmapped; null for a mapping of its own.</summary>
    private readonly LocalMapping? _whole;
    private int _isDisposed;

    /// <summary>This object and the views of it that are in use. At 0 it is unmapped.</summary>
    private int _users = 1;

    private LocalMapping(byte* address, nuint length, LocalMapping? whole = null)
    {
        _base = address;
        _length = length;
        _whole = whole;
    }

    /// <summary>struct msghdr of 64-bit Linux.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct MessageHeader
    {
        public void* Name;
        public nuint NameLength;
        public IoVector* Parts;
        public nuint PartCount;
        public void* Control;
        public nuint ControlLength;
        public int Flags;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct IoVector
    {
        public void* Base;
        public nuint Length;
    }

    /// <summary>struct cmsghdr and one descriptor behind it.</summary>
    [StructLayout(LayoutKind.Sequential, Size = 24)]
    private struct OneDescriptor
    {
        public nuint Length;
        public int Level;
        public int Type;
        public int Descriptor;
    }

    /// <summary>Bytes mapped.</summary>
    public ulong Length => _length;

    /// <summary>
    /// The mapped bytes, at most 2 GiB. They are the frames themselves: what others store appears here. Not to be used
    /// after <see cref="Dispose"/>.
    /// </summary>
    public Span<byte> Bytes
    {
        get
        {
            ObjectDisposedException.ThrowIf(_isDisposed != 0, this);
            // SAFETY: the mapping lives until Dispose, which the owner calls when nobody uses a span any more.
            return new Span<byte>(_base, checked((int)_length));
        }
    }

    /// <summary>Receives the status byte and what came with it: the descriptor, or none. Blocks.</summary>
    public static (byte Status, SafeFileHandle? Descriptor) Receive(Socket socket)
    {
        byte status = 0;
        OneDescriptor control = default;
        // SAFETY: everything that the header points to lies on this stack frame, which outlives the call.
        var part = new IoVector { Base = &status, Length = 1 };
        var message = new MessageHeader
        {
            Parts = &part,
            PartCount = 1,
            Control = &control,
            ControlLength = (nuint)sizeof(OneDescriptor)
        };
        var got = recvmsg((int)socket.Handle, &message, CloseOnExec);
        if (got < 0) throw new Win32Exception(Marshal.GetLastPInvokeError(), "receiving the machine's memory");
        if (got == 0) throw new IOException("the daemon closed the attach socket");
        var hasDescriptor = message.ControlLength >= 20 && control.Level == 1 && control.Type == 1;
        return (status, hasDescriptor ? new SafeFileHandle(control.Descriptor, ownsHandle: true) : null);
    }

    /// <summary>
    /// Maps a machine's memory as a whole, once, as the kernel's linear map has it: consecutive frames are then seen
    /// without a call of the kernel's and without a page fault for each. Takes addresses and no memory. Null where this
    /// process may not have so many addresses.
    /// </summary>
    public static LocalMapping? Whole(SafeFileHandle memory, bool isWritable)
    {
        var length = checked((nuint)RandomAccess.GetLength(memory));
        var prot = ProtRead | (isWritable ? ProtWrite : 0);
        // SAFETY: a fresh mapping that nobody else knows; its size is sealed, so that no store in it can meet the
        // file's end.
        var address = (byte*)mmap(null, length, prot, MapShared | MapNoReserve, (int)memory.DangerousGetHandle(), 0);
        return (nint)address == -1 ? null : new LocalMapping(address, length);
    }

    /// <summary>
    /// The frames in this mapping of a whole memory; null unless they follow each other there. It stays mapped until
    /// they are disposed too.
    /// </summary>
    public LocalMapping? View(FrameRuns runs)
    {
        if (runs.FirstPfns.Count == 0) return null;
        var (first, next) = (runs.FirstPfns[0], runs.FirstPfns[0]);
        for (var i = 0; i < runs.FirstPfns.Count; i++)
        {
            if (runs.FirstPfns[i] != next) return null;
            next += runs.Counts.Count == 0 ? 1 : runs.Counts[i];
        }

        var pages = _length / PageSize;
        return first > pages || next > pages || next <= first
            ? null
            : Share(first * PageSize, (next - first) * PageSize);
    }

    /// <summary>All of this mapping once more. It stays mapped until that is disposed too.</summary>
    public LocalMapping Share() => Share(0, _length);

    private LocalMapping Share(ulong offset, ulong length)
    {
        ObjectDisposedException.ThrowIf(Interlocked.Increment(ref _users) <= 1, this);
        // SAFETY: inside the mapping, as the callers have seen to, which is there until the view has left it.
        return new LocalMapping(_base + (nuint)offset, (nuint)length, this);
    }

    /// <summary>
    /// Maps runs of frames one behind the other into one range of addresses. Throws <see cref="Win32Exception"/>:
    /// EACCES for write access to memory that was attached read-only.
    /// </summary>
    public static LocalMapping Map(SafeFileHandle memory, FrameRuns runs, bool isWritable)
    {
        var pages = runs.Counts.Count == 0
            ? (ulong)runs.FirstPfns.Count
            : runs.Counts.Aggregate(0UL, static (sum, count) => sum + count);
        if (pages == 0) throw new ArgumentException("no frames to map", nameof(runs));
        var length = checked((nuint)(pages * PageSize));
        // SAFETY: a fresh reservation that nobody else knows; the runs go over it, and Dispose takes all of it away.
        var address = (byte*)mmap(null, length, ProtNone, MapPrivateAnonymousNoReserve, -1, 0);
        if ((nint)address == -1)
            throw new Win32Exception(Marshal.GetLastPInvokeError(), $"reserving {length} bytes of addresses");
        var mapping = new LocalMapping(address, length);
        try
        {
            mapping.Put(memory, 0, runs, isWritable);
            return mapping;
        }
        catch
        {
            mapping.Dispose();
            throw;
        }
    }

    /// <summary>Memory of this process alone, all zeroes, for frames to be put into.</summary>
    public static LocalMapping Reserve(ulong length)
    {
        // SAFETY: a fresh mapping that nobody else knows.
        var address = (byte*)mmap(
            null, checked((nuint)length), ProtRead | ProtWrite, MapPrivateAnonymousNoReserve, -1, 0);
        if ((nint)address == -1)
            throw new Win32Exception(Marshal.GetLastPInvokeError(), $"reserving {length} bytes of addresses");
        return new LocalMapping(address, (nuint)length);
    }

    /// <summary>
    /// Puts frames in place of what is mapped from byte <paramref name="offset"/> on, a whole number of pages.
    /// </summary>
    public void Put(SafeFileHandle memory, ulong offset, FrameRuns runs, bool isWritable)
    {
        var at = offset;
        var prot = ProtRead | (isWritable ? ProtWrite : 0);
        for (var i = 0; i < runs.FirstPfns.Count; i++)
        {
            var bytes = (runs.Counts.Count == 0 ? 1 : runs.Counts[i]) * PageSize;
            if (at + bytes > _length) throw new ArgumentException("more frames than there is room for", nameof(runs));
            // SAFETY: inside this object's own range.
            var mapped = mmap(_base + at, (nuint)bytes, prot, MapShared | MapFixed, (int)memory.DangerousGetHandle(),
                (long)(runs.FirstPfns[i] * PageSize));
            if ((nint)mapped == -1)
                throw new Win32Exception(
                    Marshal.GetLastPInvokeError(), $"mapping frames from 0x{runs.FirstPfns[i]:x} on");
            at += bytes;
        }
    }

    /// <summary>Zeroes of this process alone in place of what is mapped there. Whole pages.</summary>
    public void Clear(ulong offset, ulong length)
    {
        if (length == 0) return;
        if (offset + length > _length) throw new ArgumentOutOfRangeException(nameof(length));
        // SAFETY: inside this object's own range.
        var mapped = mmap(
            _base + offset, (nuint)length, ProtRead | ProtWrite, MapPrivateAnonymousNoReserve | MapFixed, -1, 0);
        if ((nint)mapped == -1) throw new Win32Exception(Marshal.GetLastPInvokeError(), "unmapping frames");
    }

    public void Dispose() => TryDispose();

    /// <summary>Unmaps; false when that was done before.</summary>
    public bool TryDispose()
    {
        if (Interlocked.Exchange(ref _isDisposed, 1) != 0) return false;
        Leave();
        return true;
    }

    private void Leave()
    {
        if (Interlocked.Decrement(ref _users) != 0) return;
        if (_whole is not null) _whole.Leave();
        // SAFETY: the range is this object's own, and nobody looks through it any more.
        else _ = munmap(_base, _length);
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint recvmsg(int fd, MessageHeader* message, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial void* mmap(void* address, nuint length, int prot, int flags, int fd, long offset);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int munmap(void* address, nuint length);
}
