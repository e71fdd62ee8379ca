namespace FramePin.Drivers.VideoBuf2;

/// <summary>poll() (videobuf2-core.c: vb2_core_poll; videobuf2-v4l2.c: vb2_fop_poll).</summary>
public sealed partial class Vb2Queue
{
    private const PollEvents Readable = PollEvents.In | PollEvents.ReadNormal;
    private const PollEvents Writable = PollEvents.Out | PollEvents.WriteNormal;

    /// <summary>STREAMOFF or REQBUFS was, and no QBUF since: a capture queue has nothing to wait for.</summary>
    private bool _wantsBuffers;

    /// <summary>
    /// vb2_fop_poll, for any file: readable (capture) or writable (output) when the first done buffer can be dequeued,
    /// an error when the queue does not stream. On a queue without buffers that offers read() or write() it begins
    /// these, and the file owns the queue.
    /// </summary>
    /// <param name="file">The open file.</param>
    /// <param name="events">What is asked for.</param>
    /// <param name="waits">Waits until there is something; otherwise the answer may be empty.</param>
    /// <param name="signal">Wakes who waits: -ERESTARTSYS.</param>
    public async ValueTask<(Errno Errno, PollEvents Events)> PollAsync(
        object file, PollEvents events, bool waits, CancellationToken signal = default)
    {
        var seen = events | PollEvents.Error | PollEvents.HangUp;
        while (true)
        {
            Task something;
            await _lock.WaitAsync(CancellationToken.None).ConfigureAwait(false);
            try
            {
                var wasFileIo = _fileIo is not null;
                var ready = await LookAsync(events).ConfigureAwait(false);
                if (!wasFileIo && _fileIo is not null) _owner = file;
                if (ready is null)
                {
                    lock (_done)
                    {
                        ready = Done();
                        something = NextDone();
                    }
                }
                else
                {
                    something = Task.Delay(Timeout.InfiniteTimeSpan, CancellationToken.None);
                }

                if ((ready & seen) != 0 || !waits) return (Errno.None, ready.Value & seen);
            }
            finally
            {
                _lock.Release();
            }

            try
            {
                await something.WaitAsync(signal).ConfigureAwait(false);
            }
            catch (OperationCanceledException)
            {
                return (Errno.ERESTARTSYS, PollEvents.None);
            }
        }
    }

    /// <summary>What does not depend on the done list; null where that decides. Under the lock of the queue.</summary>
    private async Task<PollEvents?> LookAsync(PollEvents events)
    {
        // The queue has no events of the other direction.
        if ((events & (Options.IsOutput ? Writable : Readable)) == 0) return PollEvents.None;
        if (_buffers.Count == 0 && _fileIo is null
            && (Options.IoModes & (Options.IsOutput ? Vb2IoModes.Write : Vb2IoModes.Read)) != 0)
        {
            if (await StartFileIoAsync(Options.IsOutput).ConfigureAwait(false) != Errno.None) return PollEvents.Error;
            if (Options.IsOutput) return Writable;
        }

        if (!_isStreaming || _hasError) return PollEvents.Error;
        if (_wantsBuffers) return PollEvents.Error;
        return Options.IsOutput && _fileIo is not null && _queued.Count < _buffers.Count ? Writable : null;
    }

    /// <summary>What the done list says. Under its lock.</summary>
    private PollEvents Done()
    {
        if (_doneList.Count == 0 && !_isLastTaken) return PollEvents.None;
        return Options.IsOutput ? Writable : Readable;
    }
}
