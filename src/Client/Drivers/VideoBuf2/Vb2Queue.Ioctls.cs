using System.Collections.Frozen;
using FramePin.V1;

namespace FramePin.Drivers.VideoBuf2;

/// <summary>The VIDIOC_ ioctls of a queue (videobuf2-v4l2.c: vb2_ioctl_*).</summary>
public sealed partial class Vb2Queue
{
    /// <summary>Where an ioctl looks whether the queue is somebody else's.</summary>
    private enum Refusal
    {
        /// <summary>Nowhere: anybody may call it.</summary>
        Never,
        /// <summary>Before its arguments.</summary>
        First,
        /// <summary>Behind the checks of its arguments.</summary>
        Later,
    }

    /// <summary>
    /// Who may call what: -EBUSY for a file that does not own the queue (vb2_queue_is_busy), and for everybody while
    /// read() or write() has the buffers to itself (vb2_fileio_is_active).
    /// </summary>
    private static readonly FrozenDictionary<string, (Refusal OfOthers, Refusal InFileIo)> Rules =
        new Dictionary<string, (Refusal, Refusal)>(StringComparer.Ordinal)
        {
            [V4l2.RequestBuffers] = (Refusal.Later, Refusal.Later),
            [V4l2.CreateBuffers] = (Refusal.Later, Refusal.Later),
            [V4l2.RemoveBuffers] = (Refusal.Later, Refusal.Later),
            [V4l2.QueryBuffer] = (Refusal.Never, Refusal.Never),
            [V4l2.QueueBuffer] = (Refusal.First, Refusal.First),
            [V4l2.PrepareBuffer] = (Refusal.First, Refusal.First),
            [V4l2.DequeueBuffer] = (Refusal.First, Refusal.First),
            [V4l2.ExportBuffer] = (Refusal.First, Refusal.Later),
            [V4l2.StreamOn] = (Refusal.First, Refusal.First),
            [V4l2.StreamOff] = (Refusal.First, Refusal.First),
            [V4l2.AllocateRequest] = (Refusal.Never, Refusal.Never),
            [V4l2.QueueRequest] = (Refusal.Never, Refusal.Never),
            [V4l2.ReinitRequest] = (Refusal.Never, Refusal.Never),
        }.ToFrozenDictionary(StringComparer.Ordinal);

    /// <summary>Runs an ioctl of the queue; null for one that is not the queue's.</summary>
    /// <param name="file">The open file, which owns the queue while it has buffers.</param>
    /// <param name="context">The call.</param>
    /// <param name="signal">Wakes who waits in DQBUF.</param>
    public async ValueTask<IoctlResult?> TryIoctlAsync(
        object file, IoctlContext context, CancellationToken signal = default)
    {
        if (!Rules.TryGetValue(context.Command, out var rule)) return null;
        // uninterruptible for everything but the wait in DQBUF, as mutex_lock is in most drivers' paths.
        await _lock.WaitAsync(CancellationToken.None).ConfigureAwait(false);
        try
        {
            if (rule.OfOthers == Refusal.First && IsBusyFor(file)) return TypeErrorOf(context) ?? Errno.EBUSY;
            if (rule.InFileIo == Refusal.First && _fileIo is not null) return TypeErrorOf(context) ?? Errno.EBUSY;
            return await RunAsync(file, context, signal).ConfigureAwait(false);
        }
        finally
        {
            _lock.Release();
        }
    }

    /// <summary>
    /// What v4l2-ioctl.c refuses before the queue sees the call: the type of a buffer that the node does not have
    /// (check_fmt), and a bad array of planes (check_array_args). Null where it refuses nothing.
    /// </summary>
    private IoctlResult? TypeErrorOf(IoctlContext context)
    {
        if (context.Command is not (V4l2.QueueBuffer or V4l2.PrepareBuffer or V4l2.DequeueBuffer)) return null;
        var errno = CheckType(V4l2Buffer.Parser.ParseFrom(context.Argument));
        return errno == Errno.None ? null : errno;
    }

    private async Task<IoctlResult> RunAsync(object file, IoctlContext context, CancellationToken signal)
    {
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
                return await QueryAsync(V4l2Buffer.Parser.ParseFrom(context.Argument)).ConfigureAwait(false);
            case V4l2.QueueBuffer:
                return await QueueAsync(
                    V4l2Buffer.Parser.ParseFrom(context.Argument), context.AddressSpace).ConfigureAwait(false);
            case V4l2.PrepareBuffer:
                return await PrepareAsync(
                    V4l2Buffer.Parser.ParseFrom(context.Argument), context.AddressSpace).ConfigureAwait(false);
            case V4l2.DequeueBuffer:
                return await GiveAsync(
                    V4l2Buffer.Parser.ParseFrom(context.Argument), context.IsNonBlocking, signal).ConfigureAwait(false);
            case V4l2.ExportBuffer:
                return await ExportAsync(V4l2ExportBuffer.Parser.ParseFrom(context.Argument)).ConfigureAwait(false);
            case V4l2.AllocateRequest:
                return AllocateRequest(file);
            case V4l2.QueueRequest:
                return await QueueRequestAsync(
                    MediaRequest.Parser.ParseFrom(context.Argument), context.AddressSpace).ConfigureAwait(false);
            case V4l2.ReinitRequest:
                return ReinitRequest(MediaRequest.Parser.ParseFrom(context.Argument));
            case V4l2.StreamOn:
                return V4l2Stream.Parser.ParseFrom(context.Argument).Type != Options.Type ? Errno.EINVAL : StreamOn();
            default:
                if (V4l2Stream.Parser.ParseFrom(context.Argument).Type != Options.Type) return Errno.EINVAL;
                await CancelAsync().ConfigureAwait(false);
                _wantsBuffers = !Options.IsOutput;
                return Errno.None;
        }
    }

    /// <summary>vb2_ioctl_reqbufs. A call that fails leaves its argument as it came (video_usercopy).</summary>
    private async Task<IoctlResult> RequestBuffersAsync(object file, V4l2RequestBuffers argument)
    {
        var errno = VerifyMemoryType(argument.Memory, argument.Type);
        if (errno == Errno.None && IsBusyFor(file)) errno = Errno.EBUSY;
        if (errno != Errno.None) return errno;
        (errno, var count) = await RequestAsync((Vb2Memory)argument.Memory, argument.Count).ConfigureAwait(false);
        if (errno != Errno.None) return errno;
        // A file without buffers is not the owner.
        _owner = argument.Count > 0 ? file : null;
        argument.Count = count;
        argument.Capabilities = Capabilities;
        return new IoctlResult(Errno.None, argument);
    }

    /// <summary>
    /// vb2_ioctl_create_bufs. Without buffers to make it checks kind and type, also while the queue is busy.
    /// </summary>
    private async Task<IoctlResult> CreateBuffersAsync(object file, V4l2CreateBuffers argument)
    {
        var errno = VerifyMemoryType(argument.Memory, argument.Format?.Type ?? 0);
        if (argument.Count == 0 && errno == Errno.EBUSY) errno = Errno.None;
        if (errno == Errno.None && argument.Count > 0)
        {
            if (IsBusyFor(file)) return Errno.EBUSY;
            var planes = Options.IsMultiplanar ? argument.Format!.Planes : argument.Format!.Planes.Take(1);
            var sizes = planes.Select(plane => (ulong)plane.SizeImage).ToArray();
            if (sizes.Length is 0 or > V4l2.MaxPlanes || sizes.Contains(0UL)) return Errno.EINVAL;
            (errno, argument.Index, argument.Count) =
                await CreateAsync((Vb2Memory)argument.Memory, argument.Count, sizes).ConfigureAwait(false);
            if (errno == Errno.None) _owner = file;
        }
        else
        {
            argument.Index = (uint)_buffers.Count;
        }

        if (errno != Errno.None) return errno;
        argument.Capabilities = Capabilities | (Options.SupportsRemove ? SupportsMaxNumBuffers : 0);
        argument.MaxNumBuffers = Options.SupportsRemove ? Options.MaxBuffers : 0;
        return new IoctlResult(Errno.None, argument);
    }

    /// <summary>
    /// vb2_ioctl_remove_bufs: -EINVAL for a range that is not all there, -EBUSY for one that is in use, whichever comes
    /// first; -EBUSY for buffers that read() or write() works with (CVE-2025-40302).
    /// </summary>
    private async Task<IoctlResult> RemoveBuffersAsync(object file, V4l2RemoveBuffers argument)
    {
        if (!Options.SupportsRemove) return Errno.ENOTTY;
        if (argument.Type != Options.Type) return Errno.EINVAL;
        if (argument.Count == 0) return Errno.None;
        if (IsBusyFor(file) || _fileIo is not null) return Errno.EBUSY;
        if (argument.Count > _buffers.Count || argument.Index > Options.MaxBuffers - argument.Count)
            return Errno.EINVAL;
        var indices = new List<uint>();
        for (var i = 0U; i < argument.Count; i++)
        {
            if (!_buffers.TryGetValue(argument.Index + i, out var buffer)) return Errno.EINVAL;
            if (buffer.State != Vb2State.Dequeued) return Errno.EBUSY;
            indices.Add(buffer.Index);
        }

        await FreeAsync(indices).ConfigureAwait(false);
        return Errno.None;
    }

    /// <summary>vb2_ioctl_querybuf: any file may ask.</summary>
    private async Task<IoctlResult> QueryAsync(V4l2Buffer argument)
    {
        var errno = CheckType(argument);
        if (errno != Errno.None) return errno;
        if (!_buffers.TryGetValue(argument.Index, out var buffer)) return Errno.EINVAL;
        errno = CheckPlanes(argument, buffer);
        return errno == Errno.None
            ? new IoctlResult(Errno.None, Describe(buffer, await IsInUseAsync(buffer).ConfigureAwait(false)))
            : errno;
    }

    private async Task<IoctlResult> QueueAsync(V4l2Buffer argument, string space)
    {
        var errno = Check(argument, isPrepare: false, out var buffer);
        MediaRequestState? request = null;
        if (errno == Errno.None) errno = CheckRequest(argument, out request);
        if (errno != Errno.None) return errno;
        var isInUse = await IsInUseAsync(buffer!).ConfigureAwait(false);
        errno = request is null ? await QueueAsync(buffer!, argument, space).ConfigureAwait(false)
            : Bind(buffer!, request, argument);
        return errno == Errno.None ? new IoctlResult(errno, Describe(buffer!, isInUse)) : errno;
    }

    private async Task<IoctlResult> PrepareAsync(V4l2Buffer argument, string space)
    {
        var errno = CheckType(argument);
        if (errno != Errno.None) return errno;
        if ((argument.Flags & V4l2.FlagRequestFd) != 0) return Errno.EINVAL;
        errno = Check(argument, isPrepare: true, out var buffer);
        if (errno != Errno.None) return errno;
        if (buffer!.State != Vb2State.Dequeued || buffer.IsPrepared) return Errno.EINVAL;
        var isInUse = await IsInUseAsync(buffer).ConfigureAwait(false);
        errno = await PrepareAsync(buffer, argument, space).ConfigureAwait(false);
        return errno == Errno.None ? new IoctlResult(errno, Describe(buffer, isInUse)) : errno;
    }

    /// <summary>vb2_dqbuf. The answer gives a buffer away, which an answer that nobody takes brings back.</summary>
    private async Task<IoctlResult> GiveAsync(V4l2Buffer argument, bool isNonBlocking, CancellationToken signal)
    {
        var errno = CheckType(argument);
        if (errno != Errno.None) return errno;
        (errno, var buffer) = await WaitForDoneAsync(argument, isNonBlocking, signal)
            .ConfigureAwait(false);
        if (buffer is null) return errno;
        var isInUse = await IsInUseAsync(buffer).ConfigureAwait(false);
        var state = buffer.State;
        Take(buffer);
        var described = Describe(buffer, isInUse);
        described.Flags &= ~V4l2.FlagDone;
        buffer.State = Vb2State.Dequeued;
        buffer.RequestFd = -1;
        var take = buffer.TakeNumber = ++_takes;
        return new IoctlResult(Errno.None, described) { TakeBack = () => TakeBackAsync(buffer, take, state) };
    }

    /// <summary>vb2_ioctl_expbuf. The answer gives a dma-buf away.</summary>
    private async Task<IoctlResult> ExportAsync(V4l2ExportBuffer argument)
    {
        const uint closeOnExec = 0x8_0000;
        const uint accessModes = 3;
        if (Memory != Vb2Memory.Mmap || (argument.Flags & ~(closeOnExec | accessModes)) != 0) return Errno.EINVAL;
        if (argument.Type != Options.Type || !_buffers.TryGetValue(argument.Index, out var buffer)) return Errno.EINVAL;
        if (argument.Plane >= buffer.Planes.Count) return Errno.EINVAL;
        if (_fileIo is not null) return Errno.EBUSY;
        if (buffer.Planes[(int)argument.Plane].Memory is not { } memory) return Errno.EINVAL;
        if (await _memOps.ExportAsync(memory, argument.Lease).ConfigureAwait(false) is not { } name)
            return Errno.EINVAL;
        argument.DmaBuf = name;
        buffer.MayBeInUse = true;
        return new IoctlResult(Errno.None, argument) { TakeBack = () => _memOps.Kernel.CloseDmaBufAsync(name) };
    }
}
