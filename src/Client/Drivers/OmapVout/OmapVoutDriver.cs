using FramePin.Drivers.VideoBuf2;
using FramePin.V1;

namespace FramePin.Drivers.OmapVout;

/// <summary>
/// The OMAP video output as the series converted it (drivers/media/platform/omap/omap_vout.c up to about 5.4, over
/// videobuf 1; Semantics 6.3, rows 103, 104). The driver pins the first page of a user's buffer only, and takes the
/// rest for physically contiguous.
/// </summary>
/// <remarks>Any thread; one lock, as the driver's mutex. Pins one page a buffer.</remarks>
public sealed class OmapVoutDriver : DriverModule
{
    /// <summary>PAGE_OFFSET: addresses from here on are the kernel's own, and the driver does not check them.</summary>
    public const ulong PageOffset = 0xffff_8880_0000_0000;

    private const uint MaxBuffers = 32;
    private readonly SemaphoreSlim _lock = new(1, 1);
    private readonly DriverKernel _kernel;
    private readonly TimeProvider _time;
    private readonly SortedDictionary<uint, Buffer> _buffers = [];
    private readonly Queue<Buffer> _queued = new();
    private readonly List<Buffer> _done = [];
    private object? _owner;
    private bool _isStreaming;
    private uint _sequence;
    private uint _memory;

    /// <summary>DQBUFs that gave a buffer away.</summary>
    private ulong _takes;
    private ulong _size = 640 * 480 * 2;

    /// <summary>Makes the driver.</summary>
    /// <param name="kernel">The kernel of the driver, which stays the caller's.</param>
    /// <param name="time">The clock of timestamps; the system's when null.</param>
    public OmapVoutDriver(DriverKernel kernel, TimeProvider? time = null)
    {
        _kernel = kernel;
        _time = time ?? TimeProvider.System;
    }

    /// <inheritdoc />
    public override string Name => "omap_vout";

    /// <inheritdoc />
    public override string Lease => _kernel.Lease;

    /// <summary>
    /// Buffers that were queued although their pages do not follow each other physically: the device would show the
    /// memory of others. Linux does not notice them.
    /// </summary>
    public ulong ScatteredBuffers { get; private set; }

    /// <summary>Buffers that were queued by a kernel address, which nothing checks (row 104).</summary>
    public ulong UncheckedAddresses { get; private set; }

    /// <inheritdoc />
    public override ValueTask<(Errno Errno, DriverFile? File)> OpenAsync(CancellationToken cancellationToken = default)
    {
        // 5.4 moved to videobuf2 dma-contig with MMAP and DMABUF only; USERPTR was gone.
        return ValueTask.FromResult<(Errno, DriverFile?)>(
            _kernel.Features.HasOmapVout ? (Errno.None, new OmapVoutFile(this)) : (Errno.ENODEV, null));
    }

    /// <inheritdoc />
    public override ValueTask DisposeAsync()
    {
        _lock.Dispose();
        return base.DisposeAsync();
    }

    /// <summary>
    /// Physical address in bytes that the device was given for a queued buffer; null when it has none. For tests and
    /// for debugging.
    /// </summary>
    /// <param name="index">Number of the buffer.</param>
    public ulong? PhysicalAddressOf(uint index) => _buffers.TryGetValue(index, out var buffer) ? buffer.Physical : null;

    /// <summary>omap_vout_get_userptr: -EINVAL whatever the reason (row 103).</summary>
    private async Task<Errno> GetUserPtrAsync(Buffer buffer, string space, ulong address)
    {
        if (address >= PageOffset)
        {
            // virt_to_phys of what the caller says, with nothing pinned.
            UncheckedAddresses++;
            buffer.Physical = address - PageOffset;
            return Errno.None;
        }

        var (_, frames) = await _kernel.GetVaddrFramesAsync(
            space, address, 1, isWrite: true, isForce: false).ConfigureAwait(false);
        if (frames is null) return Errno.EINVAL;
        buffer.Frames = frames;
        // The place within the page is lost.
        buffer.Physical = frames.Runs[0].First << 12;
        var isContiguous = frames.IsPfns
            ? await ArePfnsContiguousAsync(space, address).ConfigureAwait(false)
            : await IsContiguousAsync(space, address).ConfigureAwait(false);
        if (!isContiguous) ScatteredBuffers++;
        return Errno.None;
    }

    /// <summary>
    /// Looks at the rest of the buffer, which the driver never does: in the page table, so that nothing is faulted in.
    /// </summary>
    private async Task<bool> IsContiguousAsync(string space, ulong address)
    {
        const ulong pfnMask = (1UL << 55) - 1;
        const ulong present = 1UL << 63;
        var pages = PagesFrom(address);
        var request = new GetPagemapRequest { AddressSpace = space, Start = address & ~4095UL, Pages = (uint)pages };
        var pagemap = await _kernel.Client.AddressSpaces.GetPagemapAsync(request).ConfigureAwait(false);
        var first = pagemap.Entries[0] & pfnMask;
        return !pagemap.Entries.Where(
            (entry, i) => (entry & present) == 0 || (entry & pfnMask) != first + (ulong)i).Any();
    }

    /// <summary>
    /// The same for a device's memory, of which pagemap says nothing: the helper follows its PFNs, and neither faults
    /// them in nor holds them.
    /// </summary>
    private async Task<bool> ArePfnsContiguousAsync(string space, ulong address)
    {
        var pages = PagesFrom(address);
        var (_, frames) = await _kernel.GetVaddrFramesAsync(
            space, address & ~4095UL, pages, isWrite: true, isForce: false).ConfigureAwait(false);
        if (frames is null) return false;
        var isContiguous = frames.Runs.Count == 1 && frames.Runs[0].Count == pages;
        await _kernel.PutAsync(frames, isDirty: false).ConfigureAwait(false);
        return isContiguous;
    }

    private ulong PagesFrom(ulong address) => ((address & 4095) + _size + 4095) >> 12;

    /// <summary>omap_vout_buffer_release: put, destroy, forget.</summary>
    private async Task ReleaseAsync(Buffer buffer)
    {
        if (buffer.Frames is { } frames) await _kernel.PutAsync(frames, isDirty: false).ConfigureAwait(false);
        buffer.Frames = null;
        buffer.Physical = 0;
        (buffer.IsQueued, buffer.TakeNumber) = (false, 0);
    }

    private async Task ReleaseAllAsync()
    {
        foreach (var buffer in _buffers.Values) await ReleaseAsync(buffer).ConfigureAwait(false);
        _buffers.Clear();
        _queued.Clear();
        _done.Clear();
        _isStreaming = false;
        _owner = null;
    }

    private async Task<IoctlResult> RunAsync(object file, IoctlContext context)
    {
        if (_owner is not null && _owner != file) return Errno.EBUSY;
        switch (context.Command)
        {
            case V4l2.QueryCapabilities:
                return new IoctlResult(
                    Errno.None, new V4l2Capability { Driver = Name, Card = Name, Capabilities = 0x0400_0002 });
            case V4l2.SetFormat:
                var format = V4l2Format.Parser.ParseFrom(context.Argument);
                if (_buffers.Count > 0) return Errno.EBUSY;
                _size = (ulong)format.Width * format.Height * 2;
                format.Planes.Clear();
                format.Planes.Add(new V4l2PlaneFormat { BytesPerLine = format.Width * 2, SizeImage = (uint)_size });
                return new IoctlResult(Errno.None, format);
            case V4l2.RequestBuffers:
                return await RequestAsync(
                    file, V4l2RequestBuffers.Parser.ParseFrom(context.Argument)).ConfigureAwait(false);
            case V4l2.QueueBuffer:
                return await QueueAsync(V4l2Buffer.Parser.ParseFrom(context.Argument), context.AddressSpace)
                    .ConfigureAwait(false);
            case V4l2.DequeueBuffer:
                return Dequeue();
            case V4l2.StreamOn:
                if (_isStreaming) return Errno.EBUSY;
                if (_queued.Count == 0) return Errno.EIO;
                _isStreaming = true;
                Show();
                return Errno.None;
            case V4l2.StreamOff:
                if (!_isStreaming) return Errno.EINVAL;
                _isStreaming = false;
                // videobuf_streamoff cancels the queue, whose release hook puts the pages.
                foreach (var buffer in _buffers.Values) await ReleaseAsync(buffer).ConfigureAwait(false);
                _queued.Clear();
                _done.Clear();
                return Errno.None;
            default:
                return Errno.ENOTTY;
        }
    }

    private async Task<IoctlResult> RequestAsync(object file, V4l2RequestBuffers argument)
    {
        if (argument.Type != V4l2.BufferType.Output || argument.Memory != (uint)Vb2Memory.UserPtr) return Errno.EINVAL;
        if (_isStreaming) return Errno.EBUSY;
        await ReleaseAllAsync().ConfigureAwait(false);
        argument.Count = Math.Min(argument.Count, MaxBuffers);
        for (var i = 0U; i < argument.Count; i++) _buffers.Add(i, new Buffer(i));
        _owner = argument.Count > 0 ? file : null;
        _memory = argument.Memory;
        return new IoctlResult(Errno.None, argument);
    }

    private async Task<IoctlResult> QueueAsync(V4l2Buffer argument, string space)
    {
        if (argument.Type != V4l2.BufferType.Output || argument.Memory != _memory) return Errno.EINVAL;
        if (!_buffers.TryGetValue(argument.Index, out var buffer) || buffer.IsQueued || argument.Planes.Count == 0)
            return Errno.EINVAL;
        if (argument.Planes[0].Length < _size) return Errno.EINVAL;
        var address = argument.Planes[0].UserPointer;
        // A buffer that is queued with another address is released first.
        if (buffer.Address != address) await ReleaseAsync(buffer).ConfigureAwait(false);
        buffer.Address = address;
        if (buffer.Physical == 0)
        {
            var errno = await GetUserPtrAsync(buffer, space, address).ConfigureAwait(false);
            if (errno == Errno.None && buffer.Physical == 0) errno = Errno.EINVAL;
            if (errno != Errno.None) return errno;
        }

        (buffer.IsQueued, buffer.TakeNumber) = (true, 0);
        _queued.Enqueue(buffer);
        if (_isStreaming) Show();
        return new IoctlResult(Errno.None, argument);
    }

    /// <summary>The display goes on to the next picture when there is one: the last stays.</summary>
    private void Show()
    {
        while (_queued.Count > 1)
        {
            var shown = _queued.Dequeue();
            shown.Sequence = _sequence++;
            _done.Add(shown);
        }
    }

    private IoctlResult Dequeue()
    {
        if (!_isStreaming) return Errno.EINVAL;
        if (_done is not [var buffer, ..]) return Errno.EAGAIN;
        _done.RemoveAt(0);
        buffer.IsQueued = false;
        var take = buffer.TakeNumber = ++_takes;
        var answer = new V4l2Buffer
        {
            Index = buffer.Index,
            Type = V4l2.BufferType.Output,
            Memory = _memory,
            Sequence = buffer.Sequence,
            Timestamp = (ulong)_time.GetElapsedTime(0).Ticks * 100,
            Planes = { new V4l2Plane { UserPointer = buffer.Address, Length = (uint)_size } },
        };
        return new IoctlResult(Errno.None, answer) { TakeBack = () => TakeBackAsync(buffer, take) };
    }

    /// <summary>
    /// Nobody took the answer of the DQBUF with this number: its buffer is done again, at its old place, unless
    /// something else has become of it.
    /// </summary>
    private async Task TakeBackAsync(Buffer buffer, ulong take)
    {
        await _lock.WaitAsync(CancellationToken.None).ConfigureAwait(false);
        try
        {
            if (buffer.TakeNumber != take) return;
            buffer.TakeNumber = 0;
            buffer.IsQueued = true;
            var place = _done.FindIndex(other => other.Sequence > buffer.Sequence);
            _done.Insert(place < 0 ? _done.Count : place, buffer);
        }
        finally
        {
            _lock.Release();
        }
    }

    private sealed class Buffer(uint index)
    {
        public uint Index { get; } = index;

        public ulong Address { get; set; }

        public PinnedFrames? Frames { get; set; }

        public ulong Physical { get; set; }

        public bool IsQueued { get; set; }

        public uint Sequence { get; set; }

        /// <summary>Number of the DQBUF that gave it away last; 0 once anything else happened to it.</summary>
        public ulong TakeNumber { get; set; }
    }

    private sealed class OmapVoutFile(OmapVoutDriver driver) : DriverFile
    {
        public override async ValueTask<IoctlResult> IoctlAsync(
            IoctlContext context, CancellationToken signal = default)
        {
            await driver._lock.WaitAsync(CancellationToken.None).ConfigureAwait(false);
            try
            {
                return await driver.RunAsync(this, context).ConfigureAwait(false);
            }
            finally
            {
                driver._lock.Release();
            }
        }

        public override async ValueTask ReleaseAsync(CancellationToken cancellationToken = default)
        {
            await driver._lock.WaitAsync(CancellationToken.None).ConfigureAwait(false);
            try
            {
                if (driver._owner == this) await driver.ReleaseAllAsync().ConfigureAwait(false);
            }
            finally
            {
                driver._lock.Release();
            }
        }
    }
}
