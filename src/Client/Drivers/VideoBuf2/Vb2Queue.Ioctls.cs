using FramePin.V1;

namespace FramePin.Drivers.VideoBuf2;

/// <summary>The VIDIOC_ ioctls of a queue (videobuf2-v4l2.c: vb2_ioctl_*).</summary>
public sealed partial class Vb2Queue
{
    private const uint SupportsMmap = 1;
    private const uint SupportsUserPtr = 2;
    private const uint SupportsDmaBuf = 4;
    private const uint SupportsRequests = 8;
    private const uint SupportsOrphans = 16;
    private const uint SupportsRemoveBufs = 256;

    /// <summary>Runs an ioctl of the queue; null for one that is not the queue's.</summary>
    /// <param name="file">The open file, which owns the queue while it has buffers.</param>
    /// <param name="context">The call.</param>
    /// <param name="signal">Wakes who waits in DQBUF.</param>
    public async ValueTask<IoctlResult?> TryIoctlAsync(
        object file, IoctlContext context, CancellationToken signal = default)
    {
        if (!V4l2.IsQueueIoctl(context.Command)) return null;
        // uninterruptible for everything but the wait in DQBUF, as mutex_lock is in most drivers' paths.
        await _lock.WaitAsync(CancellationToken.None).ConfigureAwait(false);
        try
        {
            return await RunAsync(file, context, signal).ConfigureAwait(false);
        }
        finally
        {
            _lock.Release();
        }
    }

    private async Task<IoctlResult> RunAsync(object file, IoctlContext context, CancellationToken signal)
    {
        // read() or write() has the buffers to itself. REQBUFS and CREATE_BUFS say so behind the checks of their
        // arguments.
        var isOfFileIo = context.Command is V4l2.QueueBuffer or V4l2.PrepareBuffer or V4l2.DequeueBuffer
            or V4l2.ExportBuffer or V4l2.StreamOn or V4l2.StreamOff;
        if (_fileIo is not null && isOfFileIo) return Errno.EBUSY;
        switch (context.Command)
        {
            case V4l2.RequestBuffers:
                return await RequestBuffersAsync(
                    file, V4l2RequestBuffers.Parser.ParseFrom(context.Argument)).ConfigureAwait(false);
            case V4l2.CreateBuffers:
                return await CreateBuffersAsync(
                    file, V4l2CreateBuffers.Parser.ParseFrom(context.Argument)).ConfigureAwait(false);
            case V4l2.RemoveBuffers:
                return await RemoveBuffersAsync(
                    file, V4l2RemoveBuffers.Parser.ParseFrom(context.Argument)).ConfigureAwait(false);
            case V4l2.QueryBuffer:
                var query = V4l2Buffer.Parser.ParseFrom(context.Argument);
                return query.Type == Options.Type && _buffers.TryGetValue(query.Index, out var known)
                    ? new IoctlResult(Errno.None, Describe(known))
                    : Errno.EINVAL;
            case V4l2.QueueBuffer:
                return IsBusyFor(file) ? Errno.EBUSY : await QueueAsync(
                    V4l2Buffer.Parser.ParseFrom(context.Argument), context.AddressSpace).ConfigureAwait(false);
            case V4l2.PrepareBuffer:
                return IsBusyFor(file) ? Errno.EBUSY : await PrepareAsync(
                    V4l2Buffer.Parser.ParseFrom(context.Argument), context.AddressSpace).ConfigureAwait(false);
            case V4l2.DequeueBuffer:
                if (IsBusyFor(file)) return Errno.EBUSY;
                if (V4l2Buffer.Parser.ParseFrom(context.Argument).Type != Options.Type) return Errno.EINVAL;
                var (errno, buffer) = await DequeueAsync(context.IsNonBlocking, signal).ConfigureAwait(false);
                if (buffer is null) return errno;
                var described = Describe(buffer);
                buffer.State = Vb2State.Dequeued;
                described.Flags &= ~V4l2.FlagDone;
                return new IoctlResult(Errno.None, described);
            case V4l2.ExportBuffer:
                return await ExportAsync(V4l2ExportBuffer.Parser.ParseFrom(context.Argument)).ConfigureAwait(false);
            case V4l2.AllocateRequest:
                return AllocateRequest();
            case V4l2.QueueRequest:
                return await QueueRequestAsync(
                    MediaRequest.Parser.ParseFrom(context.Argument), context.AddressSpace).ConfigureAwait(false);
            case V4l2.ReinitRequest:
                return ReinitRequest(MediaRequest.Parser.ParseFrom(context.Argument));
            case V4l2.StreamOn:
                if (IsBusyFor(file)) return Errno.EBUSY;
                return V4l2Stream.Parser.ParseFrom(context.Argument).Type != Options.Type ? Errno.EINVAL : StreamOn();
            default:
                if (IsBusyFor(file)) return Errno.EBUSY;
                if (V4l2Stream.Parser.ParseFrom(context.Argument).Type != Options.Type) return Errno.EINVAL;
                await CancelAsync().ConfigureAwait(false);
                return Errno.None;
        }
    }

    /// <summary>vb2_ioctl_reqbufs.</summary>
    private async Task<IoctlResult> RequestBuffersAsync(object file, V4l2RequestBuffers argument)
    {
        argument.Capabilities = Capabilities;
        var errno = VerifyMemoryType(argument.Memory, argument.Type);
        if (errno == Errno.None && IsBusyFor(file)) errno = Errno.EBUSY;
        if (errno != Errno.None) return new IoctlResult(errno, argument);
        (errno, var count) = await RequestAsync((Vb2Memory)argument.Memory, argument.Count).ConfigureAwait(false);
        if (errno != Errno.None) return new IoctlResult(errno, argument);
        // A file without buffers is not the owner.
        _owner = argument.Count > 0 ? file : null;
        argument.Count = count;
        return new IoctlResult(Errno.None, argument);
    }

    /// <summary>vb2_ioctl_create_bufs.</summary>
    private async Task<IoctlResult> CreateBuffersAsync(object file, V4l2CreateBuffers argument)
    {
        argument.Capabilities = Capabilities;
        argument.Index = (uint)_buffers.Count;
        var errno = VerifyMemoryType(argument.Memory, argument.Format?.Type ?? 0);
        if (argument.Count == 0) return new IoctlResult(errno, argument);
        if (errno == Errno.None && IsBusyFor(file)) errno = Errno.EBUSY;
        var sizes = argument.Format?.Planes.Select(plane => (ulong)plane.SizeImage).ToArray() ?? [];
        if (errno == Errno.None && (sizes.Length == 0 || sizes.Contains(0UL))) errno = Errno.EINVAL;
        if (errno != Errno.None) return new IoctlResult(errno, argument);
        (errno, argument.Index, argument.Count) =
            await CreateAsync((Vb2Memory)argument.Memory, argument.Count, sizes).ConfigureAwait(false);
        if (errno == Errno.None) _owner = file;
        return new IoctlResult(errno, argument);
    }

    /// <summary>
    /// vb2_ioctl_remove_bufs: -EINVAL for a range that is not all there, -EBUSY for one that is in use.
    /// </summary>
    private async Task<IoctlResult> RemoveBuffersAsync(object file, V4l2RemoveBuffers argument)
    {
        if (!Options.SupportsRemove) return Errno.ENOTTY;
        if (argument.Type != Options.Type) return Errno.EINVAL;
        if (argument.Count == 0) return Errno.None;
        if (IsBusyFor(file)) return Errno.EBUSY;
        if (argument.Index >= Options.MaxBuffers || argument.Count > Options.MaxBuffers - argument.Index)
            return Errno.EINVAL;
        var indices = Enumerable.Range(0, (int)argument.Count).Select(i => argument.Index + (uint)i).ToList();
        if (!indices.TrueForAll(_buffers.ContainsKey)) return Errno.EINVAL;
        if (indices.Exists(index => _buffers[index].State != Vb2State.Dequeued)) return Errno.EBUSY;
        await FreeAsync(indices).ConfigureAwait(false);
        return Errno.None;
    }

    private async Task<IoctlResult> QueueAsync(V4l2Buffer argument, string space)
    {
        var errno = Check(argument, out var buffer);
        MediaRequestState? request = null;
        if (errno == Errno.None) errno = CheckRequest(argument, out request);
        if (errno == Errno.None)
            errno = request is null ? await QueueAsync(buffer!, argument, space).ConfigureAwait(false)
                : Bind(buffer!, request, argument);
        return errno == Errno.None ? new IoctlResult(errno, Describe(buffer!)) : errno;
    }

    private async Task<IoctlResult> PrepareAsync(V4l2Buffer argument, string space)
    {
        var errno = Check(argument, out var buffer);
        if (errno != Errno.None) return errno;
        if ((argument.Flags & V4l2.FlagRequestFd) != 0) return Errno.EINVAL;
        if (buffer!.State != Vb2State.Dequeued || buffer.IsPrepared) return Errno.EINVAL;
        errno = await PrepareAsync(buffer, argument, space).ConfigureAwait(false);
        return errno == Errno.None ? new IoctlResult(errno, Describe(buffer)) : errno;
    }

    /// <summary>vb2_queue_or_prepare_buf, __verify_planes_array, __verify_length: rows 92, 97, 98.</summary>
    private Errno Check(V4l2Buffer argument, out Vb2Buffer? buffer)
    {
        buffer = null;
        if (argument.Type != Options.Type || !_buffers.TryGetValue(argument.Index, out buffer)) return Errno.EINVAL;
        if (argument.Memory != (uint)Memory) return Errno.EINVAL;
        if (Options.IsMultiplanar)
        {
            const uint most = 8;
            if (argument.Planes.Count == 0 || argument.Length < buffer.Planes.Count || argument.Length > most)
                return Errno.EINVAL;
            if (argument.Planes.Count < buffer.Planes.Count) return Errno.EFAULT;
        }

        if (!Options.IsOutput || buffer.IsPrepared) return Errno.None;
        for (var i = 0; i < buffer.Planes.Count; i++)
        {
            var given = At(argument, i);
            var length = Memory == Vb2Memory.Mmap ? buffer.Planes[i].Length : given.Length;
            var used = given.BytesUsed != 0 ? given.BytesUsed : length;
            if (given.BytesUsed > length) return Errno.EINVAL;
            if (Options.IsMultiplanar && given.DataOffset > 0 && given.DataOffset >= used) return Errno.EINVAL;
        }

        return Errno.None;
    }

    /// <summary>vb2_ioctl_expbuf.</summary>
    private async Task<IoctlResult> ExportAsync(V4l2ExportBuffer argument)
    {
        const uint closeOnExec = 0x8_0000;
        const uint accessModes = 3;
        if (Memory != Vb2Memory.Mmap || (argument.Flags & ~(closeOnExec | accessModes)) != 0) return Errno.EINVAL;
        if (argument.Type != Options.Type || !_buffers.TryGetValue(argument.Index, out var buffer)) return Errno.EINVAL;
        if (argument.Plane >= buffer.Planes.Count) return Errno.EINVAL;
        if (buffer.Planes[(int)argument.Plane].Memory is not { } memory) return Errno.EINVAL;
        if (await _memOps.ExportAsync(memory, argument.Lease).ConfigureAwait(false) is not { } name)
            return Errno.EINVAL;
        argument.DmaBuf = name;
        return new IoctlResult(Errno.None, argument);
    }

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
    private V4l2Buffer Describe(Vb2Buffer buffer)
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
            Flags = buffer.State switch
            {
                Vb2State.Queued or Vb2State.Active => V4l2.FlagQueued,
                Vb2State.Error => V4l2.FlagError | V4l2.FlagDone,
                Vb2State.Done => V4l2.FlagDone,
                Vb2State.InRequest => V4l2.FlagInRequest,
                _ => 0,
            },
        };
        if (buffer.Request is { } request)
            (answer.Flags, answer.RequestFd) = (answer.Flags | V4l2.FlagRequestFd, request.Number);
        if (buffer.IsPrepared && buffer.State is Vb2State.Dequeued or Vb2State.InRequest)
            answer.Flags |= V4l2.FlagPrepared;
        for (var i = 0; i < buffer.Planes.Count; i++)
        {
            var plane = buffer.Planes[i];
            answer.Planes.Add(new V4l2Plane
            {
                BytesUsed = (uint)plane.BytesUsed,
                Length = (uint)plane.Length,
                Offset = Memory == Vb2Memory.Mmap ? OffsetOf(buffer.Index, i) : 0,
                UserPointer = plane.UserPointer,
                DmaBuf = plane.DmaBuf,
                DataOffset = (uint)plane.DataOffset,
            });
        }

        return answer;
    }
}
