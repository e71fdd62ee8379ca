using FramePin.Drivers.VideoBuf2;
using FramePin.V1;

namespace FramePin.Drivers.Vivid;

/// <summary>
/// The virtual video test driver (drivers/media/test-drivers/vivid; Semantics 6.5). A capture node makes test patterns,
/// an output node takes pictures, both through a videobuf2 queue. Controls inject errors.
/// </summary>
/// <remarks>
/// Any thread. One node with one queue, which the driver owns. A running stream is one task that fills the oldest
/// buffer at each frame. The task works on the frame and calls <see cref="Vb2Queue.BufferDone"/> without the queue's
/// lock.
/// </remarks>
public sealed partial class VividDriver : DriverModule, IVb2Driver
{
    /// <summary>Buffers that vivid wants at least.</summary>
    private const uint LeastBuffers = 2;

    private readonly DriverKernel _kernel;
    private readonly VividOptions _options;
    private readonly Lock _state = new();
    private readonly Queue<Vb2Buffer> _active = new();
    private bool _isAtWork;
    private SemaphoreSlim _arrived = new(0);
    private CancellationTokenSource? _stop;
    private Task _generating = Task.CompletedTask;
    private readonly uint _field;
    private PixelFormat _format;
    private Pattern _pattern;
    private int _movement;
    private uint _sequence;
    private double _framesPerSecond;

    /// <summary>Makes the driver.</summary>
    /// <param name="kernel">The kernel of the driver, which stays the caller's.</param>
    /// <param name="options">The set-up of the node.</param>
    public VividDriver(DriverKernel kernel, VividOptions options)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        ArgumentNullException.ThrowIfNull(options);
        _kernel = kernel;
        _options = options;
        _framesPerSecond = options.FramesPerSecond;
        _field = options.IsOutput ? FieldInterlaced : FieldNone;
        _format = (options.IsOutput ? Find(FirstFormat, 720, 576) : Find(FirstFormat, 640, 360))!;
        var isContig = options.Allocator == VividAllocator.DmaContig;
        // 6.12 raised the number of buffers and lets them be removed.
        var isNew = kernel.Features.Vb2RemovesBuffers;
        var queue = new Vb2QueueOptions
        {
            Type = TypeOf(options),
            Direction = options.IsOutput ? DmaDirection.ToDevice : DmaDirection.FromDevice,
            // dma-contig: vivid offers no USERPTR then.
            IoModes = Vb2IoModes.Mmap | Vb2IoModes.DmaBuf | (isContig ? Vb2IoModes.None : Vb2IoModes.UserPtr)
                | (options.IsOutput ? Vb2IoModes.Write : Vb2IoModes.Read),
            SupportsRequests = true,
            // MAX_VID_CAP_BUFFERS is for V4L2_BUF_TYPE_VIDEO_CAPTURE alone.
            MaxBuffers = isNew && TypeOf(options) == V4l2.BufferType.Capture ? 64U : 32,
            SupportsRemove = isNew,
        };
        Queue = new Vb2Queue(queue, isContig ? new DmaContigMemOps(kernel) : new VmallocMemOps(kernel), this);
    }

    /// <inheritdoc />
    public override string Name => "vivid";

    /// <inheritdoc />
    public override string Lease => _kernel.Lease;

    /// <summary>The node's queue.</summary>
    public Vb2Queue Queue { get; }

    /// <summary>Frames finished since the node was made.</summary>
    public ulong Frames { get; private set; }

    /// <summary>Buffers that the driver has: those that wait for their frame, and the one at work.</summary>
    public int HeldBuffers
    {
        get
        {
            lock (_state) return _active.Count + (_isAtWork ? 1 : 0);
        }
    }

    /// <summary>The pattern of the pictures that are made now, with which a test can check them.</summary>
    public TestPattern CurrentPattern => new(_format, _pattern, _movement);

    /// <summary>The next queue_setup answers -EINVAL.</summary>
    public bool FailsQueueSetup { get; set; }

    /// <summary>The next buf_prepare answers -EINVAL.</summary>
    public bool FailsPrepare { get; set; }

    /// <summary>The next start_streaming answers -EINVAL.</summary>
    public bool FailsStart { get; set; }

    /// <summary>The next frame is marked as an error.</summary>
    public bool FailsFrame { get; set; }

    /// <inheritdoc />
    public override ValueTask<(Errno Errno, DriverFile? File)> OpenAsync(
        CancellationToken cancellationToken = default) =>
        ValueTask.FromResult<(Errno, DriverFile?)>((Errno.None, new VividFile(this)));

    /// <inheritdoc />
    public override async ValueTask DisposeAsync()
    {
        await StopAsync().ConfigureAwait(false);
        Queue.Dispose();
        _arrived.Dispose();
        await base.DisposeAsync().ConfigureAwait(false);
    }

    Errno IVb2Driver.QueueSetup(Vb2Queue queue, ref uint count, ref ulong[] sizes)
    {
        if (FailsQueueSetup)
        {
            FailsQueueSetup = false;
            return Errno.EINVAL;
        }

        if (sizes.Length == 0)
        {
            sizes = [.. _format.Planes.Select(plane => plane.Size + plane.DataOffset)];
        }
        else if (sizes.Length != _format.Planes.Count
            || sizes.Where((size, i) => size < _format.Planes[i].Size + _format.Planes[i].DataOffset).Any())
        {
            return Errno.EINVAL;
        }

        if ((uint)queue.Count + count < LeastBuffers) count = LeastBuffers - (uint)queue.Count;
        return Errno.None;
    }

    Errno IVb2Driver.BufOutValidate(Vb2Buffer buffer)
    {
        buffer.Field = _field;
        return Errno.None;
    }

    Errno IVb2Driver.BufPrepare(Vb2Buffer buffer)
    {
        if (FailsPrepare)
        {
            FailsPrepare = false;
            return Errno.EINVAL;
        }

        for (var i = 0; i < buffer.Planes.Count; i++)
        {
            var plane = buffer.Planes[i];
            if (!_options.IsOutput) plane.DataOffset = _format.Planes[i].DataOffset;
            var size = _format.Planes[i].Size + plane.DataOffset;
            if ((_options.IsOutput ? plane.BytesUsed : plane.Length) < size) return Errno.EINVAL;
            if (!_options.IsOutput) plane.BytesUsed = size;
        }

        return Errno.None;
    }

    Errno IVb2Driver.StartStreaming(Vb2Queue queue, uint count)
    {
        if (FailsStart)
        {
            FailsStart = false;
            foreach (var buffer in TakeAll()) queue.BufferDone(buffer, Vb2State.Queued);
            return Errno.EINVAL;
        }

        _sequence = 0;
        _stop = new CancellationTokenSource();
        var generator = new TestPattern(_format, _pattern, _movement);
        _generating = Task.Run(() => GenerateAsync(generator, _stop.Token));
        return Errno.None;
    }

    async Task IVb2Driver.StopStreamingAsync(
        Vb2Queue queue, CancellationToken cancellationToken) => await StopAsync().ConfigureAwait(false);

    void IVb2Driver.BufQueue(Vb2Buffer buffer)
    {
        lock (_state) _active.Enqueue(buffer);
        _arrived.Release();
    }

    private static uint TypeOf(VividOptions options) => (options.IsOutput, options.IsMultiplanar) switch
    {
        (false, false) => V4l2.BufferType.Capture,
        (false, true) => V4l2.BufferType.CaptureMplane,
        (true, false) => V4l2.BufferType.Output,
        (true, true) => V4l2.BufferType.OutputMplane,
    };

    private async Task StopAsync()
    {
        if (_stop is not { } stop) return;
        await stop.CancelAsync().ConfigureAwait(false);
        await _generating.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        foreach (var buffer in TakeAll()) Queue.BufferDone(buffer, Vb2State.Error);
        _stop = null;
        stop.Dispose();
        _arrived.Dispose();
        _arrived = new SemaphoreSlim(0);
    }

    private List<Vb2Buffer> TakeAll()
    {
        lock (_state)
        {
            var all = _active.ToList();
            _active.Clear();
            return all;
        }
    }

    /// <summary>The stream: a frame at each tick, or whenever there is a buffer.</summary>
    private async Task GenerateAsync(TestPattern generator, CancellationToken stop)
    {
        var frames = _framesPerSecond;
        using var ticks = frames > 0 ? new PeriodicTimer(TimeSpan.FromSeconds(1 / frames), _options.Time) : null;
        var scratch = new byte[generator.Format.Planes.Max(plane => plane.Size)];
        while (true)
        {
            if (ticks is not null) await ticks.WaitForNextTickAsync(stop).ConfigureAwait(false);
            else await _arrived.WaitAsync(stop).ConfigureAwait(false);
            // An output shows its last picture until the next is there.
            var isFrame = TryTake(_options.IsOutput ? 2 : 1, out var buffer);
            var sequence = _sequence;
            if (isFrame || ticks is not null) _sequence++;
            if (!isFrame) continue;
            var state = Vb2State.Done;
            if (FailsFrame)
            {
                FailsFrame = false;
                state = Vb2State.Error;
            }

            try
            {
                if (!_options.IsOutput) await FillAsync(generator, buffer!, sequence, scratch).ConfigureAwait(false);
            }
            catch (Exception exception) when (
                exception is FramePin.Client.FramePinException or Grpc.Core.RpcException or IOException)
            {
                // The daemon took the pages away: the lease was lost.
                state = Vb2State.Error;
            }

            buffer!.Sequence = sequence;
            buffer.Field = _field;
            buffer.Timestamp = (ulong)_options.Time.GetElapsedTime(0).Ticks * 100;
            Frames++;
            Queue.BufferDone(buffer, state);
            lock (_state) _isAtWork = false;
        }
    }

    private bool TryTake(int least, out Vb2Buffer? buffer)
    {
        lock (_state)
        {
            buffer = _active.Count >= least ? _active.Dequeue() : null;
            return _isAtWork = buffer is not null;
        }
    }

    private static async Task FillAsync(TestPattern generator, Vb2Buffer buffer, uint sequence, byte[] scratch)
    {
        for (var i = 0; i < buffer.Planes.Count; i++)
        {
            var memory = buffer.Planes[i].Memory!;
            var first = memory.Offset + buffer.Planes[i].DataOffset;
            var size = (int)generator.Format.Planes[i].Size;
            if (memory.Mapping!.TryGetBytes(out var bytes))
            {
                generator.Fill(i, sequence, bytes.Slice((int)first, size));
                continue;
            }

            generator.Fill(i, sequence, scratch.AsSpan(0, size));
            await memory.Mapping.WriteAsync(first, scratch.AsMemory(0, size)).ConfigureAwait(false);
        }
    }

    private IoctlResult Control(string command, V4l2Control argument)
    {
        var isSet = command == V4l2.SetControl;
        switch (argument.Id)
        {
            case "test_pattern":
                if (isSet && !Enum.IsDefined((Pattern)argument.Value)) return Errno.EINVAL;
                if (isSet) _pattern = (Pattern)argument.Value;
                argument.Value = (int)_pattern;
                break;
            case "horizontal_movement":
                if (isSet && (argument.Value < 0 || argument.Value % _format.Group != 0)) return Errno.EINVAL;
                if (isSet) _movement = argument.Value;
                argument.Value = _movement;
                break;
            case "inject_queue_setup_error":
                if (isSet) FailsQueueSetup = true;
                break;
            case "inject_buf_prepare_error":
                if (isSet) FailsPrepare = true;
                break;
            case "inject_start_streaming_error":
                if (isSet) FailsStart = true;
                break;
            case "inject_dqbuf_error":
                if (isSet) FailsFrame = true;
                break;
            case "inject_fatal_error":
                if (isSet) Queue.SetError();
                break;
            default:
                return Errno.EINVAL;
        }

        return new IoctlResult(Errno.None, argument);
    }

    private IoctlResult Parameters(V4l2StreamParameters argument)
    {
        const double most = 10_000;
        var framesPerSecond = argument.TimePerFrame is { Numerator: > 0 } time
            ? time.Denominator / (double)time.Numerator
            : 0;
        if (argument.Type != Queue.Options.Type || framesPerSecond > most) return Errno.EINVAL;
        _framesPerSecond = framesPerSecond;
        return new IoctlResult(Errno.None, argument);
    }

    private IoctlResult Capabilities()
    {
        const uint readWrite = 0x0100_0000;
        const uint streaming = 0x0400_0000;
        var kind = (_options.IsOutput, _options.IsMultiplanar) switch
        {
            (false, false) => 1U,
            (true, false) => 2U,
            (false, true) => 0x1000U,
            (true, true) => 0x2000U,
        };
        return new IoctlResult(Errno.None,
            new V4l2Capability { Driver = "vivid", Card = "vivid", Capabilities = kind | readWrite | streaming });
    }
}
