using FramePin.V1;

namespace FramePin.Client;

/// <summary>
/// Frames that are held for this client: the answer of <see cref="FramePinAddressSpace.PinAsync(ulong, long,
/// PinOptions, CancellationToken)"/> and its kin. Disposal unpins them.
/// </summary>
/// <remarks>
/// Owns a frame vector on the daemon, and the mapping that <see cref="Map"/> made. The properties may be read from any
/// thread; the methods are not to be called beside each other. A pin that is not disposed lives until its lease ends or
/// its machine is deleted.
/// </remarks>
public sealed class Pin : IAsyncDisposable
{
    private readonly FramePinClient _client;
    private readonly LocalMachine? _local;
    private readonly ulong _hold;
    private MappedFrames? _mapped;

    /// <summary>The unpin as it is sent, so that a repeat is the same request; null before the first try.</summary>
    private UnpinRequest? _unpin;
    private bool _isDirty;

    internal Pin(FramePinClient client, PinResponse answer, LocalMachine? local)
    {
        _client = client;
        _local = answer.Hold != 0 ? local : null;
        _hold = answer.Hold;
        Name = FrameVectorName.Parse(answer.FrameVector);
        Count = (long)answer.Frames;
        Kind = answer.Kind;
        StopReason = answer.StopReason;
        Runs = PfnRun.From(answer.Runs);
        Epoch = answer.Epoch;
        Retries = (int)answer.Retries;
    }

    internal Pin(FramePinClient client, GupResponse answer)
    {
        _client = client;
        Name = FrameVectorName.Parse(answer.FrameVector);
        Count = (long)answer.Frames;
        Kind = answer.Kind;
        StopReason = answer.StopReason;
        Runs = PfnRun.From(answer.Runs);
        Epoch = answer.Epoch;
        Retries = (int)answer.Retries;
    }

    internal Pin(FramePinClient client, FrameVectorName name, FrameVector vector)
    {
        _client = client;
        Name = name;
        Count = (long)vector.Frames;
        Kind = vector.Kind;
        Runs = PfnRun.From(vector.Runs);
        Epoch = vector.Epoch;
    }

    /// <summary>"machines/{machine}/frameVectors/{number}".</summary>
    public FrameVectorName Name { get; }

    /// <summary>Frames of 4 KiB that are held, perhaps fewer than were asked for.</summary>
    public long Count { get; }

    /// <summary>Pages with references, or bare PFNs without.</summary>
    public FrameKind Kind { get; private set; }

    /// <summary>Why the pin ended early; unspecified when every page was taken.</summary>
    public StopReason StopReason { get; }

    /// <summary>The frames in order, as runs of numbers that follow each other. Empty when they were left
    /// out.</summary>
    public IReadOnlyList<PfnRun> Runs { get; private set; }

    /// <summary>Number of the machine's last command before the pin.</summary>
    public ulong Epoch { get; }

    /// <summary>Times that a page fault dropped the lock of the address space.</summary>
    public int Retries { get; }

    /// <summary>The frames have been given back.</summary>
    public bool IsReleased { get; private set; }

    /// <summary>
    /// Has the unpin mark every page dirty, as a driver does after its device has written. Makes no call. Not to be
    /// called once an unpin was tried.
    /// </summary>
    public void MarkDirty()
    {
        if (_unpin is not null) throw new InvalidOperationException("an unpin was tried already");
        _isDirty = true;
    }

    /// <summary>
    /// Gives the frames back and destroys the vector (put_vaddr_frames, frame_vector_destroy). Unmaps the frames first
    /// where <see cref="Map"/> was called. Does nothing when that was done before. A call that failed may be repeated.
    /// </summary>
    /// <param name="cancellationToken">Gives the call up.</param>
    /// <exception cref="FramePinException">NotFound: the pin went with its lease or its machine.</exception>
    public async Task UnpinAsync(CancellationToken cancellationToken = default)
    {
        if (IsReleased) return;
        _mapped?.Dispose();
        _unpin ??= new UnpinRequest
        {
            FrameVector = Name,
            Dirty = _isDirty,
            Attachment = _local?.Name ?? "",
            Hold = _hold,
            RequestId = FramePinCalls.NewRequestId()
        };
        await _client.Pinning.UnpinAsync(_unpin, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        IsReleased = true;
    }

    /// <summary>
    /// Converts the vector in place (frame_vector_to_pages, frame_vector_to_pfns). <see cref="Kind"/> and
    /// <see cref="Runs"/> are those of the result.
    /// </summary>
    /// <param name="to">Pages or PFNs.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    /// <exception cref="FramePinException">EINVAL, and nothing changed: a PFN has no struct page.</exception>
    public async Task ConvertAsync(FrameKind to, CancellationToken cancellationToken = default)
    {
        var request = new ConvertRequest { FrameVector = Name, To = to, RequestId = FramePinCalls.NewRequestId() };
        var answer = await _client.Pinning.ConvertAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        Kind = answer.Kind;
        Runs = PfnRun.From(answer.Runs);
    }

    /// <summary>Describes the vector: from where it was pinned, when, and by which trace.</summary>
    /// <param name="cancellationToken">Gives the call up.</param>
    /// <exception cref="FramePinException">NotFound: the pin went with its lease or its machine.</exception>
    public Task<FrameVector> GetAsync(CancellationToken cancellationToken = default) =>
        _client.Pinning.GetFrameVectorAsync(
            new GetFrameVectorRequest { Name = Name }, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken);

    /// <summary>Shows struct pages of the frames: their counts and flags.</summary>
    /// <param name="first">Index of the first frame.</param>
    /// <param name="count">Frames, at most 1024; 0 means 1024. The answer is shorter at the end of the vector.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    /// <exception cref="FramePinException">NotFound: the pin went with its lease or its machine.</exception>
    public async Task<IReadOnlyList<Page>> GetPagesAsync(
        long first = 0, int count = 0, CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(first);
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        var request = new GetPagesRequest { FrameVector = Name, First = (ulong)first, Count = (uint)count };
        var answer = await _client.Pinning.GetPagesAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return answer.Pages;
    }

    /// <summary>
    /// Reads bytes of the frames as a device does, without a page fault. Returns their count, which is smaller at the
    /// end of the frames. One stream; for many bytes on the daemon's host <see cref="Map"/> is cheaper.
    /// </summary>
    /// <param name="offset">First byte, counted from the first frame.</param>
    /// <param name="buffer">Where they go.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    /// <exception cref="FramePinException">A frame cannot be read.</exception>
    public Task<int> ReadAsync(ulong offset, Memory<byte> buffer, CancellationToken cancellationToken = default) =>
        MemoryTransfer.ReadAsync(_client, Name, offset, buffer, cancellationToken);

    /// <summary>Writes all of <paramref name="data"/> to the frames as a device does. One stream.</summary>
    /// <param name="offset">First byte, counted from the first frame.</param>
    /// <param name="data">The bytes.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    /// <exception cref="FramePinException">A frame cannot be written, or the frames end before the data.</exception>
    public Task WriteAsync(ulong offset, ReadOnlyMemory<byte> data, CancellationToken cancellationToken = default) =>
        MemoryTransfer.WriteAsync(_client, Name, offset, data, cancellationToken);

    /// <summary>
    /// Maps the frames into this process. The unpin unmaps them. Makes no call, since the pin held the frames for the
    /// attachment of <see cref="PinOptions.LocalMachine"/>.
    /// </summary>
    /// <exception cref="InvalidOperationException">
    /// The pin was made without a local machine, its frames were left out, or they are bare PFNs, which are not held.
    /// </exception>
    public MappedFrames Map()
    {
        ObjectDisposedException.ThrowIf(IsReleased, this);
        if (_local is null || Runs.Count == 0)
            throw new InvalidOperationException("the frames are not held for an attachment of this process");
        var runs = new FrameRuns();
        runs.FirstPfns.AddRange(Runs.Select(static run => run.First));
        runs.Counts.AddRange(Runs.Select(static run => (ulong)run.Count));
        return _mapped ??= _local.MapPinned(runs);
    }

    /// <summary>
    /// Unpins, once. Does not throw, so that it masks no exception of the block that it ends: a refusal goes to the
    /// log, and the pin then lives until its lease ends or its machine is deleted. <see cref="UnpinAsync"/> throws.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        if (IsReleased) return;
        try
        {
            await UnpinAsync().ConfigureAwait(false);
        }
        catch (FramePinException exception)
        {
            Log.UnpinFailed(_client.Logger, Name, exception.Reason, exception);
        }
    }
}
