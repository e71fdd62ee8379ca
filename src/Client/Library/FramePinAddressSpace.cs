using FramePin.V1;

namespace FramePin.Client;

/// <summary>An emulated address space: its memory calls, its bytes and its pins.</summary>
/// <remarks>
/// Any thread. The object is a name and its client, and holds nothing on the daemon: the address space lives until
/// <see cref="ExitAsync"/>, the end of its lease or of its machine. Every method is one call unless it says otherwise.
/// All of them throw <see cref="FramePinException"/>: with the errno of Linux where Linux refuses the call, NotFound
/// for an address space that has exited. Addresses and lengths are bytes, counts of pages are pages of 4 KiB.
/// </remarks>
public sealed partial class FramePinAddressSpace
{
    internal FramePinAddressSpace(FramePinClient client, AddressSpaceName name)
    {
        Client = client;
        Name = name;
    }

    /// <summary>"machines/{machine}/addressSpaces/{id}".</summary>
    public AddressSpaceName Name { get; }

    /// <summary>The connection.</summary>
    public FramePinClient Client { get; }

    /// <summary>The machine. Makes no call.</summary>
    public FramePinMachine Machine => new(Client, Name.Machine);

    /// <summary>Describes the address space: its layout, its task, its break.</summary>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task<AddressSpace> GetAsync(CancellationToken cancellationToken = default) =>
        Client.AddressSpaces.GetAddressSpaceAsync(
            new GetAddressSpaceRequest { Name = Name }, cancellationToken: cancellationToken).TypedAsync(
                cancellationToken);

    /// <summary>
    /// Pins pages (frame_vector_create, get_vaddr_frames). Fewer pages may be pinned than asked: the pin tells how many
    /// and why.
    /// </summary>
    /// <param name="address">Any byte of the first page.</param>
    /// <param name="pages">Pages of 4 KiB, from 1 to the daemon's vector_pages_max.</param>
    /// <param name="write">The device writes.</param>
    /// <param name="cancellationToken">Gives the pin up; what it had taken is given back.</param>
    /// <returns>The pin, which the caller disposes.</returns>
    /// <exception cref="FramePinException">The first page cannot be had: its errno and
    /// <see cref="FramePinException.StopReason"/> tell why.</exception>
    public Task<Pin> PinAsync(
        ulong address, long pages, bool write = false, CancellationToken cancellationToken = default) =>
        PinAsync(address, pages, write ? ForWriting : ForReading, cancellationToken);

    /// <summary>Pins pages, as the other overload does.</summary>
    /// <param name="address">Any byte of the first page.</param>
    /// <param name="pages">Pages of 4 KiB, from 1 to the daemon's vector_pages_max.</param>
    /// <param name="options">Direction, lease, attachment, and whether a short answer is refused.</param>
    /// <param name="cancellationToken">Gives the pin up; what it had taken is given back.</param>
    /// <returns>The pin, which the caller disposes.</returns>
    /// <exception cref="FramePinException">The first page cannot be had: its errno and
    /// <see cref="FramePinException.StopReason"/> tell why.</exception>
    public async Task<Pin> PinAsync(
        ulong address, long pages, PinOptions options, CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(pages);
        ArgumentNullException.ThrowIfNull(options);
        var request = new PinRequest
        {
            AddressSpace = Name,
            Start = address,
            Pages = (ulong)pages,
            Write = options.Write,
            Force = options.Force,
            AllOrNothing = options.AllOrNothing,
            OmitFrames = options.OmitFrames,
            Lease = options.Lease ?? "",
            Attachment = options.LocalMachine?.Name ?? "",
            RequestId = FramePinCalls.NewRequestId(),
        };
        var answer = await Client.Pinning.PinAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return new Pin(Client, answer, options.LocalMachine);
    }

    /// <summary>Calls a function of mm/gup.c. The pin holds what it answers.</summary>
    /// <param name="function">get_user_pages, pin_user_pages or one of their kin.</param>
    /// <param name="address">Any byte of the first page.</param>
    /// <param name="pages">Pages of 4 KiB, at least 1.</param>
    /// <param name="flags">FOLL_* bits.</param>
    /// <param name="lease">Lease that owns the pin; null: the machine owns it until it is unpinned.</param>
    /// <param name="cancellationToken">Gives the call up; what it had taken is given back.</param>
    /// <returns>The pin, which the caller disposes.</returns>
    public async Task<Pin> GupAsync(
        GupFunction function, ulong address, long pages, uint flags = 0, LeaseName? lease = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(pages);
        var request = new GupRequest
        {
            AddressSpace = Name,
            Function = function,
            Start = address,
            Pages = (ulong)pages,
            Flags = flags,
            Lease = lease ?? "",
            RequestId = FramePinCalls.NewRequestId(),
        };
        var answer = await Client.Pinning.GupAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return new Pin(Client, answer);
    }

    /// <summary>fork: makes a copy-on-write copy.</summary>
    /// <param name="childId">Last segment of the child's name; the daemon counts when null.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<FramePinAddressSpace> ForkAsync(
        string? childId = null, CancellationToken cancellationToken = default)
    {
        var request = new ForkAddressSpaceRequest
        {
            Name = Name,
            ChildId = childId ?? "",
            RequestId = FramePinCalls.NewRequestId()
        };
        var child = await Client.AddressSpaces.ForkAddressSpaceAsync(request, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return new FramePinAddressSpace(Client, AddressSpaceName.Parse(child.Name));
    }

    /// <summary>The process ends: its mappings go, pins stay until they are unpinned.</summary>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task ExitAsync(CancellationToken cancellationToken = default) =>
        Client.AddressSpaces.ExitAddressSpaceAsync(
            new ExitAddressSpaceRequest { Name = Name, RequestId = FramePinCalls.NewRequestId() },
            cancellationToken: cancellationToken).TypedAsync(cancellationToken);

    /// <summary>Replaces limits, capabilities and pending signals of the task.</summary>
    /// <param name="task">All of them; what it leaves out gets its default.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task SetTaskAsync(TaskSpec task, CancellationToken cancellationToken = default) =>
        Client.AddressSpaces.SetTaskAsync(
            new SetTaskRequest { AddressSpace = Name, Task = task, RequestId = FramePinCalls.NewRequestId() },
            cancellationToken: cancellationToken).TypedAsync(cancellationToken);

    /// <summary>Lists the mappings in order of their addresses, as /proc/PID/maps.</summary>
    /// <param name="withUsage">Fills the bytes of each mapping and its smaps text too, which walks the page
    /// table.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<IReadOnlyList<MapsEntry>> GetMapsAsync(
        bool withUsage = false, CancellationToken cancellationToken = default)
    {
        var answer = await Client.AddressSpaces.GetMapsAsync(
            new GetMapsRequest { AddressSpace = Name, WithUsage = withUsage }, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return answer.Entries;
    }

    /// <summary>Reads entries of /proc/PID/pagemap.</summary>
    /// <param name="address">Any byte of the first page.</param>
    /// <param name="pages">Pages of 4 KiB.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<IReadOnlyList<ulong>> GetPagemapAsync(
        ulong address, int pages, CancellationToken cancellationToken = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(pages);
        var answer = await Client.AddressSpaces.GetPagemapAsync(
            new GetPagemapRequest { AddressSpace = Name, Start = address, Pages = (uint)pages },
            cancellationToken: cancellationToken).TypedAsync(cancellationToken).ConfigureAwait(false);
        return answer.Entries;
    }

    /// <summary>
    /// Reads bytes as the program itself does, with page faults. Returns their count. Stops with a refusal at the first
    /// byte that cannot be read.
    /// </summary>
    /// <param name="address">First byte.</param>
    /// <param name="buffer">Where they go.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task<int> ReadAsync(ulong address, Memory<byte> buffer, CancellationToken cancellationToken = default) =>
        MemoryTransfer.ReadAsync(Client, Name, address, buffer, cancellationToken);

    /// <summary>
    /// Writes all of <paramref name="data"/> as the program itself does, with page faults. A refusal names the bytes
    /// that were written as "written" in its metadata.
    /// </summary>
    /// <param name="address">First byte.</param>
    /// <param name="data">The bytes.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public Task WriteAsync(ulong address, ReadOnlyMemory<byte> data, CancellationToken cancellationToken = default) =>
        MemoryTransfer.WriteAsync(Client, Name, address, data, cancellationToken);

    /// <summary>The name of the address space.</summary>
    public override string ToString() => Name.ToString();

    private static readonly PinOptions ForReading = new();
    private static readonly PinOptions ForWriting = new() { Write = true };
}
