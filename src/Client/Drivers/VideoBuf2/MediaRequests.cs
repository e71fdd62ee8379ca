using FramePin.V1;

namespace FramePin.Drivers.VideoBuf2;

/// <summary>enum media_request_state.</summary>
public enum MediaRequestPhase
{
    /// <summary>Buffers may be bound to it.</summary>
    Idle,
    /// <summary>It is being checked inside MEDIA_REQUEST_IOC_QUEUE.</summary>
    Validating,
    /// <summary>Its buffers are the queue's.</summary>
    Queued,
    /// <summary>Every buffer of it is done.</summary>
    Complete,
}

/// <summary>
/// A request: buffers that are queued together (struct media_request). Guarded by the lock of what is done.
/// </summary>
internal sealed class MediaRequestState(int number, object file)
{
    public int Number { get; } = number;

    /// <summary>The open file that it was made on, which it goes with.</summary>
    public object File { get; } = file;

    public MediaRequestPhase Phase { get; set; }

    /// <summary>Bound and not finished.</summary>
    public List<Vb2Buffer> Buffers { get; } = [];
}

/// <summary>
/// The requests of a queue (drivers/media/mc/mc-request.c, videobuf2-v4l2.c: vb2_request_validate, vb2_request_queue).
/// </summary>
/// <remarks>A node stands for its media device here, with one queue: a request has no controls.</remarks>
public sealed partial class Vb2Queue
{
    private const int MostRequests = 1024;

    private readonly Dictionary<int, MediaRequestState> _requests = [];
    private int _nextRequest;

    /// <summary>
    /// MEDIA_IOC_REQUEST_ALLOC: a request, which lives as long as the file that it was made on. An answer that nobody
    /// takes closes it.
    /// </summary>
    private IoctlResult AllocateRequest(object file)
    {
        if (!Options.SupportsRequests) return Errno.ENOTTY;
        if (_requests.Count >= MostRequests) return Errno.ENOMEM;
        var request = new MediaRequestState(++_nextRequest, file);
        _requests.Add(request.Number, request);
        return new IoctlResult(Errno.None, new MediaRequest { Fd = request.Number })
        {
            TakeBack = async () =>
            {
                await _lock.WaitAsync(CancellationToken.None).ConfigureAwait(false);
                Close(request);
                _lock.Release();
            },
        };
    }

    /// <summary>The file is closed, and its requests with it (media_request_close).</summary>
    private void CloseRequests(object file)
    {
        foreach (var request in _requests.Values.Where(request => request.File == file).ToList()) Close(request);
    }

    /// <summary>
    /// media_request_release: buffers that are bound to it are the application's again. One that is queued lives on in
    /// its buffers, without a number. Under the lock of the queue.
    /// </summary>
    private void Close(MediaRequestState request)
    {
        _requests.Remove(request.Number);
        lock (_done)
            if (request.Phase == MediaRequestPhase.Idle) LetGo(request);
    }

    /// <summary>Unbinds what is bound to a request. Under the lock of what is done.</summary>
    private static void LetGo(MediaRequestState request)
    {
        foreach (var buffer in request.Buffers.ToList())
        {
            if (buffer.State == Vb2State.InRequest) (buffer.State, buffer.RequestFd) = (Vb2State.Dequeued, -1);
            Unbind(buffer);
        }
    }

    /// <summary>
    /// MEDIA_REQUEST_IOC_QUEUE: prepares every buffer, then queues them. -EBUSY for a request that is not idle, -ENOENT
    /// for one without buffers; a buffer that cannot be prepared leaves it idle.
    /// </summary>
    private async Task<IoctlResult> QueueRequestAsync(MediaRequest argument, string space)
    {
        if (!_requests.TryGetValue(argument.Fd, out var request)) return Errno.EINVAL;
        List<Vb2Buffer> buffers;
        lock (_done)
        {
            if (request.Phase != MediaRequestPhase.Idle) return Errno.EBUSY;
            if (request.Buffers.Count == 0) return Errno.ENOENT;
            request.Phase = MediaRequestPhase.Validating;
            buffers = [.. request.Buffers];
        }

        foreach (var buffer in buffers.Where(buffer => !buffer.IsPrepared))
        {
            var failed = await PrepareAsync(buffer, buffer.RequestArgument!, space).ConfigureAwait(false);
            if (failed == Errno.None) continue;
            lock (_done) request.Phase = MediaRequestPhase.Idle;
            return failed;
        }

        lock (_done) request.Phase = MediaRequestPhase.Queued;
        foreach (var buffer in buffers)
            await QueueAsync(buffer, buffer.RequestArgument!, space).ConfigureAwait(false);
        return Errno.None;
    }

    /// <summary>MEDIA_REQUEST_IOC_REINIT: its buffers are the application's again. -EBUSY while it is queued.</summary>
    private IoctlResult ReinitRequest(MediaRequest argument)
    {
        if (!_requests.TryGetValue(argument.Fd, out var request)) return Errno.EINVAL;
        lock (_done)
        {
            if (request.Phase is not (MediaRequestPhase.Idle or MediaRequestPhase.Complete)) return Errno.EBUSY;
            LetGo(request);
            request.Phase = MediaRequestPhase.Idle;
            return Errno.None;
        }
    }

    /// <summary>
    /// vb2_queue_or_prepare_buf: whether a QBUF may go with, or without, a request. -EBADR where the queue wants the
    /// other, -EBUSY where it was used the other way since STREAMOFF, -EINVAL for a request that is not there, -EBUSY
    /// for one that is not idle.
    /// </summary>
    private Errno CheckRequest(V4l2Buffer argument, out MediaRequestState? request)
    {
        request = null;
        if ((argument.Flags & V4l2.FlagRequestFd) == 0)
        {
            if (Options.RequiresRequests) return Errno.EBADR;
            return _usesRequests ? Errno.EBUSY : Errno.None;
        }

        if (!Options.SupportsRequests) return Errno.EBADR;
        if (_usesQueueing) return Errno.EBUSY;
        if (!_requests.TryGetValue(argument.RequestFd, out request)) return Errno.EINVAL;
        lock (_done) return request.Phase == MediaRequestPhase.Idle ? Errno.None : Errno.EBUSY;
    }

    /// <summary>vb2_core_qbuf with a request: nothing is pinned before that is queued.</summary>
    private Errno Bind(Vb2Buffer buffer, MediaRequestState request, V4l2Buffer argument)
    {
        if (_hasError) return Errno.EIO;
        _usesRequests = true;
        if (buffer.State != Vb2State.Dequeued) return Errno.EINVAL;
        lock (_done)
        {
            request.Buffers.Add(buffer);
            buffer.Request = request;
            buffer.RequestFd = request.Number;
            buffer.RequestArgument = argument;
            buffer.State = Vb2State.InRequest;
            return Errno.None;
        }
    }

    /// <summary>
    /// media_request_object_unbind: the last one out completes the request. Under the lock of what is done.
    /// </summary>
    private static void Unbind(Vb2Buffer buffer)
    {
        if (buffer.Request is not { } request) return;
        request.Buffers.Remove(buffer);
        buffer.Request = null;
        buffer.RequestArgument = null;
        if (request.Buffers.Count == 0 && request.Phase == MediaRequestPhase.Queued)
            request.Phase = MediaRequestPhase.Complete;
    }
}
