namespace FramePin.Drivers.VideoBuf2;

/// <summary>How the queue comes by its buffers, and frees them.</summary>
public sealed partial class Vb2Queue
{
    /// <summary>vb2_core_reqbufs.</summary>
    private async Task<(Errno Errno, uint Count)> RequestAsync(Vb2Memory memory, uint count)
    {
        if (_isStreaming) return (Errno.EBUSY, 0);
        if (IsWaiting && count > 0) return (Errno.EBUSY, 0);
        if (count == 0 || _buffers.Count > 0 || (Memory != Vb2Memory.Unknown && Memory != memory))
        {
            await CancelAsync().ConfigureAwait(false);
            await FreeAsync(_buffers.Keys.ToList()).ConfigureAwait(false);
            Memory = Vb2Memory.Unknown;
            if (count == 0) return (Errno.None, 0);
        }

        var wanted = Math.Min(Math.Max(count, MinAllocated), Options.MaxBuffers);
        Memory = memory;
        ulong[] sizes = [];
        var errno = _driver.QueueSetup(this, ref wanted, ref sizes);
        if (errno != Errno.None) return Unbound(errno);
        var allocated = await AllocateAsync(memory, wanted, sizes).ConfigureAwait(false);
        if (allocated.Count == 0) return Unbound(Errno.ENOMEM);
        if (allocated.Count < MinAllocated) errno = Errno.ENOMEM;
        if (errno == Errno.None && allocated.Count < wanted)
        {
            // Fewer than asked: the driver may be content with them.
            var had = (uint)allocated.Count;
            errno = _driver.QueueSetup(this, ref had, ref sizes);
            if (errno == Errno.None && allocated.Count < had) errno = Errno.ENOMEM;
        }

        if (errno == Errno.None)
        {
            _wantsBuffers = !Options.IsOutput;
            return (Errno.None, (uint)allocated.Count);
        }

        await FreeAsync(allocated).ConfigureAwait(false);
        return Unbound(errno);
    }

    /// <summary>
    /// vb2_core_create_bufs: more buffers, in one row of free places. Fewer than asked where the row or the memory is
    /// short.
    /// </summary>
    private async Task<(Errno Errno, uint First, uint Count)> CreateAsync(Vb2Memory memory, uint count, ulong[] sizes)
    {
        var first = _buffers.Count == 0 ? 0 : _buffers.Keys.Last() + 1;
        if (_buffers.Count >= Options.MaxBuffers) return (Errno.ENOBUFS, first, 0);
        var isFirst = _buffers.Count == 0;
        if (isFirst)
        {
            if (IsWaiting && count > 0) return (Errno.EBUSY, first, 0);
            Memory = memory;
            _wantsBuffers = !Options.IsOutput;
        }
        else if (Memory != memory)
        {
            return (Errno.EINVAL, first, 0);
        }

        var wanted = Math.Min(count, Options.MaxBuffers - (uint)_buffers.Count);
        var errno = _driver.QueueSetup(this, ref wanted, ref sizes);
        if (errno == Errno.None)
        {
            var allocated = await AllocateAsync(memory, wanted, sizes).ConfigureAwait(false);
            if (allocated.Count == wanted) return (Errno.None, allocated[0], wanted);
            errno = Errno.ENOMEM;
            if (allocated.Count > 0)
            {
                // Fewer than asked: the driver may be content with them.
                var had = (uint)allocated.Count;
                var answer = _driver.QueueSetup(this, ref had, ref sizes);
                if (answer == Errno.None && allocated.Count >= had)
                    return (Errno.None, allocated[0], (uint)allocated.Count);
                await FreeAsync(allocated).ConfigureAwait(false);
            }
        }

        if (isFirst) Memory = Vb2Memory.Unknown;
        return (errno, first, 0);
    }

    private (Errno Errno, uint Count) Unbound(Errno errno)
    {
        Memory = Vb2Memory.Unknown;
        return (errno, 0);
    }

    private uint MinAllocated => Options.MinQueued == 0 ? 1 : Options.MinQueued + 1;

    /// <summary>
    /// __vb2_queue_alloc: as many as there is memory for, in the first row of free places that has room for all, or in
    /// the longest; their indices.
    /// </summary>
    private async Task<List<uint>> AllocateAsync(Vb2Memory memory, uint count, ulong[] sizes)
    {
        var made = new List<uint>();
        var first = Options.MaxBuffers;
        for (count = Math.Min(count, Options.MaxBuffers); count > 0; count--)
        {
            first = FirstFree(count);
            if (first < Options.MaxBuffers) break;
        }

        try
        {
            for (var index = first; index < first + count; index++)
            {
                var buffer = new Vb2Buffer(this, index, memory, sizes.Length);
                foreach (var (plane, size) in buffer.Planes.Zip(sizes)) (plane.MinLength, plane.Length) = (size, size);
                if (memory == Vb2Memory.Mmap)
                {
                    SetCookies(buffer);
                    if (!await AllocatePlanesAsync(buffer).ConfigureAwait(false)) break;
                }

                _buffers.Add(index, buffer);
                made.Add(index);
            }
        }
        catch
        {
            // The caller is told of none of them.
            await FreeAsync(made).ConfigureAwait(false);
            throw;
        }

        return made;
    }

    /// <summary>bitmap_find_next_zero_area; the most buffers where no row is long enough.</summary>
    private uint FirstFree(uint count)
    {
        var free = 0U;
        for (var index = 0U; index < Options.MaxBuffers; index++)
        {
            free = _buffers.ContainsKey(index) ? 0 : free + 1;
            if (free == count) return index + 1 - count;
        }

        return Options.MaxBuffers;
    }

    private async Task<bool> AllocatePlanesAsync(Vb2Buffer buffer)
    {
        var isWhole = true;
        try
        {
            foreach (var plane in buffer.Planes)
            {
                plane.Memory = await _memOps.AllocAsync(plane.Length, "/dev/video").ConfigureAwait(false);
                isWhole = plane.Memory is not null;
                if (!isWhole) break;
            }

            buffer.IsInitialised = isWhole && _driver.BufInit(buffer) == Errno.None;
            return buffer.IsInitialised;
        }
        finally
        {
            // The buffer is in no list yet, so that nobody else gives its planes back.
            if (!buffer.IsInitialised) await ReleasePlanesAsync(buffer).ConfigureAwait(false);
        }
    }

    /// <summary>
    /// __vb2_queue_free: what the buffers hold is given back. Those that applications have mapped live on as orphans.
    /// </summary>
    private async Task FreeAsync(IReadOnlyList<uint> indices)
    {
        foreach (var index in indices)
        {
            await ReleasePlanesAsync(_buffers[index]).ConfigureAwait(false);
            _buffers.Remove(index);
        }

        if (_buffers.Count == 0) Memory = Vb2Memory.Unknown;
    }

    private async Task ReleasePlanesAsync(Vb2Buffer buffer)
    {
        if (buffer.IsInitialised) _driver.BufCleanup(buffer);
        buffer.IsInitialised = false;
        foreach (var plane in buffer.Planes)
        {
            if (plane.Memory is not { } memory) continue;
            plane.Memory = null;
            if (plane.SharesAttachment)
            {
                plane.SharesAttachment = false;
                continue;
            }

            await memory.PutAsync().ConfigureAwait(false);
        }
    }
}
