using FramePin.V1;

namespace FramePin.Drivers.VideoBuf2;

/// <summary>
/// struct v4l2_buffer: what the queue takes from an application, and what it answers (videobuf2-v4l2.c).
/// </summary>
public sealed partial class Vb2Queue
{
    private const uint SupportsMmap = 1;
    private const uint SupportsUserPtr = 2;
    private const uint SupportsDmaBuf = 4;
    private const uint SupportsRequests = 8;
    private const uint SupportsOrphans = 16;
    private const uint SupportsMaxNumBuffers = 128;
    private const uint SupportsRemoveBufs = 256;

    private const uint FlagTimecode = 0x100;
    private const uint FlagLast = 0x10_0000;

    /// <summary>Bits of the state, of requests and of timestamps: the queue's and not the application's.</summary>
    private const uint QueuesFlags = V4l2.FlagMapped | V4l2.FlagQueued | V4l2.FlagDone | V4l2.FlagError
        | V4l2.FlagPrepared | V4l2.FlagInRequest | V4l2.FlagRequestFd | 0xe000;

    /// <summary>V4L2_BUF_FLAG_TSTAMP_SRC_MASK.</summary>
    private const uint SourceFlags = 0x7_0000;

    /// <summary>Hints for caches, which a queue without them clears.</summary>
    private const uint CacheFlags = 0x1800;

    /// <summary>Key, P and B frames, the timecode and the hold of m2m: they mean something for output alone.</summary>
    private const uint OutputFlags = 0x338;

    /// <summary>
    /// v4l2-ioctl.c, before the queue: -EINVAL for more planes than there can be and for another type, -EFAULT for an
    /// array of planes that is shorter than the caller says.
    /// </summary>
    private Errno CheckType(V4l2Buffer argument)
    {
        if (argument.Type is V4l2.BufferType.CaptureMplane or V4l2.BufferType.OutputMplane)
        {
            if (argument.Length > V4l2.MaxPlanes) return Errno.EINVAL;
            if (argument.Planes.Count < argument.Length) return Errno.EFAULT;
        }

        return argument.Type == Options.Type ? Errno.None : Errno.EINVAL;
    }

    /// <summary>__verify_planes_array, row 97.</summary>
    private static Errno CheckPlanes(V4l2Buffer argument, Vb2Buffer buffer) =>
        buffer.Queue.Options.IsMultiplanar && argument.Length < buffer.Planes.Count ? Errno.EINVAL : Errno.None;

    /// <summary>
    /// vb2_queue_or_prepare_buf up to the requests: rows 92, 97, 98. A buffer that is not prepared takes the
    /// application's fields.
    /// </summary>
    private Errno Check(V4l2Buffer argument, bool isPrepare, out Vb2Buffer? buffer)
    {
        buffer = null;
        var errno = CheckType(argument);
        if (errno != Errno.None) return errno;
        if (!_buffers.TryGetValue(argument.Index, out buffer)) return Errno.EINVAL;
        if (argument.Memory != (uint)Memory) return Errno.EINVAL;
        errno = CheckPlanes(argument, buffer);
        if (errno != Errno.None) return errno;
        if (!isPrepare && (argument.Flags & V4l2.FlagRequestFd) != 0 && buffer.State != Vb2State.Dequeued)
            return Errno.EINVAL;
        return buffer.IsPrepared ? Errno.None : Fill(buffer, argument);
    }

    /// <summary>
    /// vb2_fill_vb2_v4l2_buffer and __verify_length: fields of the application that the buffer keeps. Only a buffer
    /// that is the application's changes.
    /// </summary>
    private Errno Fill(Vb2Buffer buffer, V4l2Buffer argument)
    {
        const uint alternate = 7;
        for (var i = 0; Options.IsOutput && i < buffer.Planes.Count; i++)
        {
            var given = At(argument, i);
            var length = Memory == Vb2Memory.Mmap ? buffer.Planes[i].Length : given.Length;
            var used = given.BytesUsed != 0 ? given.BytesUsed : length;
            if (given.BytesUsed > length) return Errno.EINVAL;
            if (Options.IsMultiplanar && given.DataOffset > 0 && given.DataOffset >= used) return Errno.EINVAL;
        }

        if (Options.IsOutput && argument.Field == alternate) return Errno.EINVAL;
        if (buffer.State != Vb2State.Dequeued) return Errno.None;
        buffer.Sequence = 0;
        buffer.RequestFd = -1;
        buffer.Flags = argument.Flags & ~(QueuesFlags | CacheFlags);
        if (!Options.CopiesTimestamps || !Options.IsOutput) buffer.Flags &= ~SourceFlags;
        if (Options.IsOutput)
        {
            buffer.Flags &= ~FlagTimecode;
            buffer.Field = argument.Field;
        }
        else
        {
            buffer.Flags &= ~(OutputFlags | FlagLast);
        }

        return Errno.None;
    }

    /// <summary>__copy_timestamp: the application's for a queue that copies, otherwise the driver's alone.</summary>
    private void CopyTimestamp(Vb2Buffer buffer, V4l2Buffer argument)
    {
        if (!Options.IsOutput) return;
        if (Options.CopiesTimestamps) buffer.Timestamp = argument.Timestamp;
        buffer.Flags |= argument.Flags & FlagTimecode;
    }

    /// <summary>vb2_set_flags_and_caps.</summary>
    private uint Capabilities
    {
        get
        {
            var bits = SupportsOrphans;
            if (Options.SupportsRequests) bits |= SupportsRequests;
            if ((Options.IoModes & Vb2IoModes.Mmap) != 0) bits |= SupportsMmap;
            if ((Options.IoModes & Vb2IoModes.UserPtr) != 0) bits |= SupportsUserPtr;
            if ((Options.IoModes & Vb2IoModes.DmaBuf) != 0) bits |= SupportsDmaBuf;
            if (Options.SupportsRemove) bits |= SupportsRemoveBufs;
            return bits;
        }
    }

    /// <summary>__fill_v4l2_buffer.</summary>
    /// <param name="buffer">The buffer.</param>
    /// <param name="isInUse">The answer of <see cref="IsInUseAsync"/>, which is a call that can fail: an ioctl that
    /// changes the buffer asks before the change.</param>
    private V4l2Buffer Describe(Vb2Buffer buffer, bool isInUse)
    {
        var answer = new V4l2Buffer
        {
            Index = buffer.Index,
            Type = Options.Type,
            Memory = (uint)Memory,
            Field = buffer.Field,
            Sequence = buffer.Sequence,
            Timestamp = buffer.Timestamp,
            Length = Options.IsMultiplanar ? (uint)buffer.Planes.Count : 0,
            Flags = buffer.Flags | TimestampFlags | FlagsOf(buffer.State),
        };
        if (buffer.RequestFd >= 0)
            (answer.Flags, answer.RequestFd) = (answer.Flags | V4l2.FlagRequestFd, buffer.RequestFd);
        if (buffer.IsPrepared && buffer.State is Vb2State.Dequeued or Vb2State.InRequest)
            answer.Flags |= V4l2.FlagPrepared;
        if (isInUse) answer.Flags |= V4l2.FlagMapped;
        foreach (var plane in buffer.Planes)
        {
            answer.Planes.Add(new V4l2Plane
            {
                BytesUsed = (uint)plane.BytesUsed,
                Length = (uint)plane.Length,
                Offset = Memory == Vb2Memory.Mmap ? plane.Cookie : 0,
                UserPointer = plane.UserPointer,
                DmaBuf = plane.DmaBuf,
                DataOffset = (uint)plane.DataOffset,
            });
        }

        return answer;
    }

    private uint TimestampFlags => Options.CopiesTimestamps ? V4l2.FlagTimestampCopy : V4l2.FlagTimestampMonotonic;

    private static uint FlagsOf(Vb2State state) => state switch
    {
        Vb2State.Queued or Vb2State.Active => V4l2.FlagQueued,
        Vb2State.Error => V4l2.FlagError | V4l2.FlagDone,
        Vb2State.Done => V4l2.FlagDone,
        Vb2State.InRequest => V4l2.FlagInRequest,
        _ => 0,
    };

    /// <summary>
    /// vb2_buffer_in_use: an application maps a plane, or holds its dma-buf. The daemon knows; a buffer that was
    /// neither mapped nor exported yet costs no call.
    /// </summary>
    private static async Task<bool> IsInUseAsync(Vb2Buffer buffer)
    {
        if (!buffer.MayBeInUse) return false;
        foreach (var plane in buffer.Planes)
            if (plane.Memory is { } memory && await memory.IsInUseAsync().ConfigureAwait(false)) return true;
        return false;
    }
}
