using System.Globalization;
using FramePin.Client;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Drivers;

/// <summary>
/// The kernel's services to a driver: the frame helper, a view of pinned pages, and memory of the driver's own.
/// </summary>
/// <remarks>
/// Any thread. Owns a lease, an attachment and a stream. When this process dies, the lease ends and the daemon releases
/// the driver's pins and buffers. Answers of Linux are errnos; <see cref="FramePinException"/> tells that the daemon
/// cannot be reached.
/// </remarks>
public sealed partial class DriverKernel : IAsyncDisposable
{
    private readonly FramePinLease _lease;
    private readonly LocalMachine? _local;
    private readonly RemoteFrameMemory _remote;
    private readonly PinLine _line;
    private int _nextDevice;

    private DriverKernel(
        FramePinClient client, Machine machine, FramePinLease lease, LocalMachine? local)
    {
        Client = client;
        Machine = machine.Name;
        Features = machine.Features;
        _lease = lease;
        _local = local;
        _remote = new RemoteFrameMemory(client);
        _line = new PinLine(client, machine.Name, lease.Name, local?.Name ?? "", lease.Lost);
    }

    /// <summary>The connection.</summary>
    public FramePinClient Client { get; }

    /// <summary>"machines/{m}".</summary>
    public string Machine { get; }

    /// <summary>Facts about the machine's kernel, by name. A driver asks them and never a version.</summary>
    public KernelFeatures Features { get; }

    /// <summary>"machines/{m}/leases/{l}" of the driver.</summary>
    public string Lease => _lease.Name;

    /// <summary>Signalled when the lease has ended, and with it the driver's pins.</summary>
    public CancellationToken Lost => _lease.Lost;

    /// <summary>
    /// Pages are mapped into this process. Otherwise they are read and written through the daemon.
    /// </summary>
    public bool IsLocal => _local is not null;

    /// <summary>Opens a lease for a driver, and attaches to the machine's memory when asked to.</summary>
    /// <param name="client">The daemon. It must outlive the driver.</param>
    /// <param name="machine">"machines/{m}".</param>
    /// <param name="owner">The driver's name, for people.</param>
    /// <param name="isLocal">This process runs on the daemon's host and is to see the pages themselves.</param>
    /// <param name="ttl">The lease's time to live; the daemon's default when null.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    public static async Task<DriverKernel> OpenAsync(
        FramePinClient client, string machine, string owner, bool isLocal, TimeSpan? ttl = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(client);
        var known = await client.Machines.GetMachineAsync(
            new GetMachineRequest { Name = machine }, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        var lease = await FramePinLease.OpenAsync(client, known.Name, owner, ttl, cancellationToken: cancellationToken)
            .ConfigureAwait(false);
        try
        {
            var local = isLocal ? await LocalMachine.AttachAsync(
                client, machine, lease.Name, cancellationToken: cancellationToken).ConfigureAwait(false) : null;
            return new DriverKernel(client, known, lease, local);
        }
        catch
        {
            await lease.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>copy_to_user: -EFAULT when a byte cannot be stored. The bytes before it are stored.</summary>
    /// <param name="space">Name of the caller's address space.</param>
    /// <param name="address">First byte.</param>
    /// <param name="data">The bytes.</param>
    /// <param name="cancellationToken">Gives the copy up.</param>
    public async Task<Errno> CopyToUserAsync(
        string space, ulong address, ReadOnlyMemory<byte> data, CancellationToken cancellationToken = default)
    {
        try
        {
            await _remote.WriteAsync(space, address, data, cancellationToken).ConfigureAwait(false);
            return Errno.None;
        }
        catch (FramePinException exception) when (exception.StatusCode is StatusCode.FailedPrecondition
            or StatusCode.NotFound)
        {
            return Errno.EFAULT;
        }
    }

    /// <summary>copy_from_user: -EFAULT when a byte cannot be loaded.</summary>
    /// <param name="space">Name of the caller's address space.</param>
    /// <param name="address">First byte.</param>
    /// <param name="buffer">Where the bytes go.</param>
    /// <param name="cancellationToken">Gives the copy up.</param>
    public async Task<Errno> CopyFromUserAsync(
        string space, ulong address, Memory<byte> buffer, CancellationToken cancellationToken = default)
    {
        try
        {
            var count = await _remote.ReadAsync(space, address, buffer, cancellationToken).ConfigureAwait(false);
            return count == buffer.Length ? Errno.None : Errno.EFAULT;
        }
        catch (FramePinException exception) when (exception.StatusCode is StatusCode.FailedPrecondition
            or StatusCode.NotFound)
        {
            return Errno.EFAULT;
        }
    }

    /// <summary>
    /// vm_map_ram and its kin: makes a view of the frames' bytes, mapped into this process where it is local.
    /// </summary>
    /// <param name="frames">The frames. They must outlive the view.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    public async Task<KernelMapping> MapAsync(PinnedFrames frames, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(frames);
        var length = frames.Count << 12;
        // Bare PFNs may be MMIO, which lies outside the memory's descriptor.
        if (_local is null || frames.IsPfns) return new KernelMapping(_remote, frames.Name, length);
        // The pin holds the frames for this attachment already, so that no call is needed.
        if (frames.Hold != 0) return new KernelMapping(_local.MapPinned(frames.WireRuns));
        return new KernelMapping(await _local.MapAsync(
            frames.Name, cancellationToken: cancellationToken).ConfigureAwait(false));
    }

    /// <summary>Allocates memory of the driver's own that applications can map. Null when RAM is out.</summary>
    /// <param name="bytes">Bytes, rounded up to pages.</param>
    /// <param name="isPfnMapped">Its mmap uses remap_pfn_range, and does not map page by page.</param>
    /// <param name="name">Path that maps shows.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    public async Task<KernelBuffer?> AllocateAsync(
        ulong bytes, bool isPfnMapped, string name, CancellationToken cancellationToken = default)
    {
        var pages = (bytes + 4095) >> 12;
        var request = new CreateDeviceRequest
        {
            Parent = Machine,
            DeviceId = string.Create(CultureInfo.InvariantCulture,
                $"{Lease[(Lease.LastIndexOf('/') + 1)..]}-b{Interlocked.Increment(ref _nextDevice)}"),
            Mapping = isPfnMapped ? DeviceMapping.Pfnmap : DeviceMapping.MixedPages,
            Pages = pages,
            Ram = true,
            HasClose = true,
            Path = name,
            Lease = Lease,
        };
        Device? device = null;
        try
        {
            device = await Client.Devices.CreateDeviceAsync(request, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
            var export = new ExportDeviceRequest { Name = device.Name, Lease = Lease };
            var view = await Client.Devices.ExportDeviceAsync(export, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
            return new KernelBuffer(
                device.Name, new PinnedFrames(view.FrameVector, pages, isPfns: false, new FrameRuns()));
        }
        catch (Exception exception)
        {
            if (device is not null) await DeleteAsync(device.Name, CancellationToken.None).ConfigureAwait(false);
            if (exception is FramePinException { StatusCode: StatusCode.ResourceExhausted }) return null;
            throw;
        }
    }

    /// <summary>
    /// Makes a dma-buf over a buffer: a frame vector that keeps the buffer's pages, also when the buffer is freed.
    /// Returns the name of the vector.
    /// </summary>
    /// <param name="buffer">The buffer.</param>
    /// <param name="lease">Lease that owns the dma-buf; empty: it lives until it is unpinned.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    public async Task<string> ExportAsync(
        KernelBuffer buffer, string lease, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        var export = await Client.Devices.ExportDeviceAsync(
            new ExportDeviceRequest { Name = buffer.Device, Lease = lease }, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken).ConfigureAwait(false);
        return export.FrameVector;
    }

    /// <summary>
    /// dma_buf_get and dma_buf_attach: takes a reference to a dma-buf, whose pages stay when its exporter closes it.
    /// Null for a name that is no dma-buf's.
    /// </summary>
    /// <param name="name">Name of the frame vector that stands for it.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    /// <returns>The pages, which the driver puts.</returns>
    public async Task<PinnedFrames?> ImportDmaBufAsync(string name, CancellationToken cancellationToken = default)
    {
        try
        {
            var import = await Client.Pinning.ImportDmaBufAsync(
                new ImportDmaBufRequest { Name = name, Lease = Lease }, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
            return new PinnedFrames(import.FrameVector, import.Frames, isPfns: false, import.Runs);
        }
        catch (FramePinException exception) when (IsNoDmaBuf(exception))
        {
            return null;
        }
    }

    /// <summary>Bytes of a dma-buf; null for a name that is no dma-buf's.</summary>
    /// <param name="name">Name of the frame vector that stands for it.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<ulong?> SizeOfDmaBufAsync(string name, CancellationToken cancellationToken = default)
    {
        try
        {
            var vector = await Client.Pinning.GetFrameVectorAsync(
                new GetFrameVectorRequest { Name = name, OmitFrames = true }, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
            return vector.Device.Length == 0 ? null : vector.Frames << 12;
        }
        catch (FramePinException exception) when (IsNoDmaBuf(exception))
        {
            return null;
        }
    }

    /// <summary>Closes a dma-buf that <see cref="ExportAsync"/> made. One that is closed already is no error.</summary>
    /// <param name="name">Name of the frame vector that stands for it.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task CloseDmaBufAsync(string name, CancellationToken cancellationToken = default)
    {
        try
        {
            await Client.Pinning.UnpinAsync(
                new UnpinRequest { FrameVector = name }, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
        }
        catch (FramePinException exception) when (exception.StatusCode == StatusCode.NotFound)
        {
            // It went with its lease or the machine.
        }
    }

    /// <summary>An application maps the buffer, or holds a dma-buf over it, or an importer does.</summary>
    /// <param name="buffer">The buffer.</param>
    /// <param name="cancellationToken">Gives the call up.</param>
    public async Task<bool> IsInUseAsync(KernelBuffer buffer, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        try
        {
            var device = await Client.Devices.GetDeviceAsync(
                new GetDeviceRequest { Name = buffer.Device }, cancellationToken: cancellationToken)
                .TypedAsync(cancellationToken).ConfigureAwait(false);
            // One of the exports is the driver's own view.
            return device.Mappings > 0 || device.Exports > 1;
        }
        catch (FramePinException exception) when (exception.StatusCode == StatusCode.NotFound)
        {
            // It went with the lease or the machine.
            return false;
        }
    }

    private static bool IsNoDmaBuf(FramePinException exception) =>
        exception.StatusCode is StatusCode.NotFound or StatusCode.InvalidArgument or StatusCode.FailedPrecondition;

    /// <summary>Frees a buffer. Applications that have it mapped keep its pages until they unmap it.</summary>
    /// <param name="buffer">The buffer.</param>
    /// <param name="cancellationToken">Refuses the call before it begins, or gives up the waiting for its end.</param>
    public async Task FreeAsync(KernelBuffer buffer, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        await PutAsync(buffer.Frames, isDirty: false, cancellationToken).ConfigureAwait(false);
        try
        {
            await DeleteAsync(buffer.Device, cancellationToken).ConfigureAwait(false);
        }
        catch (FramePinException exception) when (exception.StatusCode == StatusCode.NotFound)
        {
            // It went with the lease or the machine.
        }
    }

    /// <summary>Ends the stream, the attachment and the lease. The daemon releases what the driver holds
    /// still.</summary>
    public async ValueTask DisposeAsync()
    {
        await _line.DisposeAsync().ConfigureAwait(false);
        _local?.Dispose();
        await _lease.DisposeAsync().ConfigureAwait(false);
    }

    private Task DeleteAsync(string device, CancellationToken cancellationToken) =>
        Client.Devices.DeleteDeviceAsync(
            new DeleteDeviceRequest { Name = device }, cancellationToken: cancellationToken)
            .TypedAsync(cancellationToken);
}
