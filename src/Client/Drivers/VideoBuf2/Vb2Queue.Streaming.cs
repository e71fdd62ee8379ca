using System.Runtime.CompilerServices;
using FramePin.V1;

namespace FramePin.Drivers.VideoBuf2;

/// <summary>The way of a buffer: queued, started, done, dequeued.</summary>
public sealed partial class Vb2Queue
{
    /// <summary>
    /// __vb2_queue_cancel: the device stops, and every buffer is the application's again. Pins stay (row 93).
    /// </summary>
    private async Task CancelAsync()
    {
        if (_hasStarted) await _driver.StopStreamingAsync(this).ConfigureAwait(false);
        TaskCompletionSource woken;
        lock (_done)
        {
            _isStreaming = false;
            _hasStarted = false;
            _hasError = false;
            _isLastTaken = false;
            _usesRequests = false;
            _usesQueueing = false;
            _doneList.Clear();
            foreach (var buffer in _buffers.Values) Unbind(buffer);
            woken = _somethingDone;
        }

        _queued.Clear();
        foreach (var buffer in _buffers.Values)
        {
            if (buffer.IsPrepared) _driver.BufFinish(buffer);
            buffer.IsPrepared = false;
            buffer.State = Vb2State.Dequeued;
            (buffer.RequestFd, buffer.TakeNumber) = (-1, 0);
        }

        woken.TrySetResult();
    }

    /// <summary>vb2_core_streamon.</summary>
    private Errno StreamOn()
    {
        if (_isStreaming) return Errno.None;
        if (_buffers.Count == 0 || _buffers.Count < Options.MinQueued) return Errno.EINVAL;
        if (_queued.Count >= Options.MinQueued)
        {
            var errno = Start();
            if (errno != Errno.None) return errno;
        }

        _isStreaming = true;
        return Errno.None;
    }

    /// <summary>vb2_start_streaming: the driver gets what is queued, then is started.</summary>
    private Errno Start()
    {
        foreach (var buffer in _queued) Enqueue(buffer);
        _hasStarted = true;
        var errno = _driver.StartStreaming(this, (uint)_queued.Count);
        if (errno == Errno.None) return errno;
        _hasStarted = false;
        // A driver that keeps buffers after it failed has a bug: they are taken back.
        foreach (var buffer in _queued) BufferDone(buffer, Vb2State.Queued);
        return errno;
    }

    private void Enqueue(Vb2Buffer buffer)
    {
        lock (_done) buffer.State = Vb2State.Active;
        _driver.BufQueue(buffer);
    }

    /// <summary>vb2_core_qbuf, behind the checks of its argument.</summary>
    private async Task<Errno> QueueAsync(Vb2Buffer buffer, V4l2Buffer argument, string space)
    {
        if (_hasError) return Errno.EIO;
        var before = buffer.State;
        if (before is not (Vb2State.Dequeued or Vb2State.InRequest)) return Errno.EINVAL;
        if (before == Vb2State.Dequeued) _usesQueueing = true;
        if (!buffer.IsPrepared)
        {
            var errno = await PrepareAsync(buffer, argument, space).ConfigureAwait(false);
            if (errno != Errno.None) return errno;
        }

        _queued.Add(buffer);
        _wantsBuffers = false;
        buffer.State = Vb2State.Queued;
        buffer.TakeNumber = 0;
        CopyTimestamp(buffer, argument);
        if (_hasStarted)
        {
            Enqueue(buffer);
        }
        else if (_isStreaming && _queued.Count >= Options.MinQueued)
        {
            var errno = Start();
            if (errno == Errno.None) return errno;
            // The caller gets an error, so the buffer is his again.
            _queued.Remove(buffer);
            buffer.State = before;
            return errno;
        }

        return Errno.None;
    }

    /// <summary>
    /// vb2_core_dqbuf up to the buffer that is done, which <see cref="Take"/> takes: waits with the lock let go. The
    /// caller holds the lock, and holds it again afterwards. An argument that has no room for the buffer's planes is
    /// -EINVAL; null has room for all.
    /// </summary>
    private async Task<(Errno Errno, Vb2Buffer? Buffer)> WaitForDoneAsync(
        V4l2Buffer? argument, bool isNonBlocking, CancellationToken signal)
    {
        var waiter = new StrongBox<CancellationToken>(signal);
        while (true)
        {
            Task something;
            lock (_done)
            {
                if (IsWaiting) return (Errno.EBUSY, null);
                if (!_isStreaming) return (Errno.EINVAL, null);
                if (_hasError) return (Errno.EIO, null);
                if (_isLastTaken) return (Errno.EPIPE, null);
                if (_doneList is [var buffer, ..])
                {
                    return argument is not null && CheckPlanes(argument, buffer) != Errno.None
                        ? (Errno.EINVAL, null)
                        : (Errno.None, buffer);
                }

                if (isNonBlocking) return (Errno.EAGAIN, null);
                something = NextDone();
                _waiter = waiter;
            }

            _lock.Release();
            var isSignalled = false;
            try
            {
                await something.WaitAsync(signal).ConfigureAwait(false);
            }
            catch (OperationCanceledException)
            {
                isSignalled = true;
            }

            await _lock.WaitAsync(CancellationToken.None).ConfigureAwait(false);
            if (_waiter == waiter) _waiter = null;
            if (isSignalled) return (Errno.ERESTARTSYS, null);
        }
    }

    /// <summary>
    /// The rest of vb2_core_dqbuf: a buffer that is done is the application's. The caller has held the lock since the
    /// buffer was found, so that it is in the done list still.
    /// </summary>
    private void Take(Vb2Buffer buffer)
    {
        lock (_done) _doneList.Remove(buffer);
        _driver.BufFinish(buffer);
        buffer.IsPrepared = false;
        _queued.Remove(buffer);
    }

    /// <summary>
    /// Nobody took the answer of the DQBUF with this number: its buffer waits in the done list again, at its old place,
    /// unless something else has become of it.
    /// </summary>
    private async Task TakeBackAsync(Vb2Buffer buffer, ulong take, Vb2State state)
    {
        await _lock.WaitAsync(CancellationToken.None).ConfigureAwait(false);
        try
        {
            if (!_buffers.TryGetValue(buffer.Index, out var known) || known != buffer) return;
            TaskCompletionSource woken;
            lock (_done)
            {
                if (buffer.TakeNumber != take || buffer.State != Vb2State.Dequeued || !_isStreaming) return;
                buffer.State = state;
                buffer.TakeNumber = 0;
                buffer.IsPrepared = true;
                var place = _doneList.FindIndex(other => other.DoneNumber > buffer.DoneNumber);
                _doneList.Insert(place < 0 ? _doneList.Count : place, buffer);
                woken = _somethingDone;
            }

            _queued.Insert(0, buffer);
            woken.TrySetResult();
        }
        finally
        {
            _lock.Release();
        }
    }

    /// <summary>Completes when a buffer is done or the stream changes. Under the lock of what is done.</summary>
    private Task NextDone()
    {
        if (_somethingDone.Task.IsCompleted)
            _somethingDone = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        return _somethingDone.Task;
    }
}
