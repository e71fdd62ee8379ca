using System.Globalization;
using FramePin.Client;
using FramePin.V1;
using Grpc.Core;

namespace FramePin.Drivers;

/// <summary>
/// What the kernel gives a driver: the frame helper, its own view of pinned pages, and memory of its own.
/// </summary>
/// <remarks>Any thread. Owns its lease: when this process dies, all that its driver holds is released.</remarks>
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

    public FramePinClient Client { get; }

    /// <summary>"machines/{m}".</summary>
    public string Machine { get; }

    /// <summary>Facts about the machine's kernel, by name.</summary>
    public KernelFeatures Features { get; }

    /// <summary>"machines/{m}/leases/{l}" of the driver.</summary>
    public string Lease => _lease.Name;

    /// <summary>Cancelled when the daemon took the driver for dead: its pins are gone.</summary>
    public CancellationToken Lost => _lease.Lost;

    /// <summary>Pages are mapped into this process, and not read and written through the daemon.</summary>
    public bool IsLocal => _local is not null;

    /// <summary>Opens a lease for a driver, and attaches to the machine's memory when asked to.</summary>
    /// <param name="client">The daemon; must outlive the driver.</param>
    /// <param name="machine">"machines/{m}".</param>
    /// <param name="owner">Driver's name, for people.</param>
    /// <param name="isLocal">This process runs on the daemon's host and is to see the pages themselves.</param>
    /// <param name="ttl">The lease's time to live; the daemon's default when null.</param>
    /// <param name="cancelled">Gives it up.</param>
    public static async Task<DriverKernel> OpenAsync(
        FramePinClient client, string machine, string owner, bool isLocal, TimeSpan? ttl = null,
        CancellationToken cancelled = default)
    {
        ArgumentNullException.ThrowIfNull(client);
        var known = await client.Machines.GetMachineAsync(
            new GetMachineRequest { Name = machine }, cancellationToken: cancelled).ConfigureAwait(false);
        var lease = await FramePinLease.OpenAsync(client, known.Name, owner, ttl, cancelled: cancelled)
            .ConfigureAwait(false);
        try
        {
            var local = isLocal ? await LocalMachine.AttachAsync(
                client, machine, lease.Name, cancelled: cancelled).ConfigureAwait(false) : null;
            return new DriverKernel(client, known, lease, local);
        }
        catch
        {
            await lease.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>copy_to_user: -EFAULT when a byte cannot be stored; those before it are.</summary>
    public async Task<Errno> CopyToUserAsync(string space, ulong address, ReadOnlyMemory<byte> data)
    {
        try
        {
            await _remote.WriteAsync(space, address, data).ConfigureAwait(false);
            return Errno.None;
        }
        catch (RpcException exception) when (exception.StatusCode is StatusCode.FailedPrecondition
            or StatusCode.NotFound)
        {
            return Errno.EFAULT;
        }
    }

    /// <summary>copy_from_user.</summary>
    public async Task<Errno> CopyFromUserAsync(string space, ulong address, Memory<byte> buffer)
    {
        try
        {
            return await _remote.ReadAsync(space, address, buffer).ConfigureAwait(false) == buffer.Length
                ? Errno.None
                : Errno.EFAULT;
        }
        catch (RpcException exception) when (exception.StatusCode is StatusCode.FailedPrecondition
            or StatusCode.NotFound)
        {
            return Errno.EFAULT;
        }
    }

    /// <summary>
    /// vm_map_ram and its like: a view of the frames' bytes, mapped into this process where it is local.
    /// </summary>
    public async Task<KernelMapping> MapAsync(PinnedFrames frames)
    {
        ArgumentNullException.ThrowIfNull(frames);
        var length = frames.Count << 12;
        // Bare PFNs may be MMIO, which lies outside the memory's descriptor.
        if (_local is null || frames.IsPfns) return new KernelMapping(_remote, frames.Name, length);
        // Held by the pin already: nobody has to be asked.
        if (frames.Hold != 0) return new KernelMapping(_local.MapPinned(frames.WireRuns));
        return new KernelMapping(await _local.MapAsync(frames.Name).ConfigureAwait(false));
    }

    /// <summary>Memory of the driver's own that applications can map; null when RAM is out.</summary>
    /// <param name="bytes">Rounded up to pages.</param>
    /// <param name="isPfnMapped">Mapped by remap_pfn_range, and not page by page.</param>
    /// <param name="name">Path that maps shows.</param>
    public async Task<KernelBuffer?> AllocateAsync(ulong bytes, bool isPfnMapped, string name)
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
            device = await Client.Devices.CreateDeviceAsync(request).ConfigureAwait(false);
            var view = await Client.Devices.ExportDeviceAsync(
                new ExportDeviceRequest { Name = device.Name, Lease = Lease }).ConfigureAwait(false);
            return new KernelBuffer(
                device.Name, new PinnedFrames(view.FrameVector, pages, isPfns: false, new FrameRuns()));
        }
        catch (RpcException exception) when (exception.StatusCode == StatusCode.ResourceExhausted)
        {
            if (device is not null)
                await Client.Devices.DeleteDeviceAsync(
                    new DeleteDeviceRequest { Name = device.Name }).ConfigureAwait(false);
            return null;
        }
    }

    /// <summary>A dma-buf over a buffer: a vector that keeps its pages, also when the buffer is freed.</summary>
    /// <param name="buffer">What is exported.</param>
    /// <param name="lease">Whose dma-buf it is; empty: it lives until it is unpinned.</param>
    public async Task<string> ExportAsync(KernelBuffer buffer, string lease)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        var export = await Client.Devices.ExportDeviceAsync(
            new ExportDeviceRequest { Name = buffer.Device, Lease = lease }).ConfigureAwait(false);
        return export.FrameVector;
    }

    /// <summary>
    /// The pages behind a dma-buf; null when there is no such one. They stay the dma-buf's: not to be put.
    /// </summary>
    public async Task<PinnedFrames?> FindDmaBufAsync(string name)
    {
        try
        {
            var vector = await Client.Pinning.GetFrameVectorAsync(
                new GetFrameVectorRequest { Name = name }).ConfigureAwait(false);
            return new PinnedFrames(vector.Name, vector.Frames, vector.Kind == FrameKind.Pfns, vector.Runs);
        }
        catch (RpcException exception) when (exception.StatusCode is StatusCode.NotFound or StatusCode.InvalidArgument)
        {
            return null;
        }
    }

    /// <summary>Frees a buffer; applications that have it mapped keep it until they unmap it.</summary>
    public async Task FreeAsync(KernelBuffer buffer)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        await PutAsync(buffer.Frames, isDirty: false).ConfigureAwait(false);
        try
        {
            await Client.Devices.DeleteDeviceAsync(
                new DeleteDeviceRequest { Name = buffer.Device }).ConfigureAwait(false);
        }
        catch (RpcException exception) when (exception.StatusCode == StatusCode.NotFound)
        {
            // Released with the lease or the machine.
        }
    }

    public async ValueTask DisposeAsync()
    {
        await _line.DisposeAsync().ConfigureAwait(false);
        _local?.Dispose();
        await _lease.DisposeAsync().ConfigureAwait(false);
    }
}

/// <summary>Memory of the driver's own: a device that can be mapped, and the driver's view of it.</summary>
public sealed record KernelBuffer(string Device, PinnedFrames Frames);

/// <summary>A driver's view of frames: their bytes one behind the other.</summary>
/// <remarks>One user at a time. Does not own the frames.</remarks>
public sealed class KernelMapping : IDisposable
{
    private readonly MappedFrames? _mapped;
    private readonly RemoteFrameMemory? _remote;
    private readonly string _vector = "";

    internal KernelMapping(MappedFrames mapped)
    {
        _mapped = mapped;
        Length = mapped.Length;
    }

    internal KernelMapping(RemoteFrameMemory remote, string vector, ulong length)
    {
        _remote = remote;
        _vector = vector;
        Length = length;
    }

    /// <summary>Bytes.</summary>
    public ulong Length { get; }

    /// <summary>
    /// The bytes themselves where this process has them mapped: what is stored is seen by the application at once.
    /// </summary>
    public bool TryGetBytes(out Span<byte> bytes)
    {
        bytes = _mapped is null ? default : _mapped.Bytes;
        return _mapped is not null;
    }

    /// <summary>Stores, wherever the frames are.</summary>
    public async ValueTask WriteAsync(ulong offset, ReadOnlyMemory<byte> data)
    {
        if (_mapped is not null) data.Span.CopyTo(_mapped.Bytes[checked((int)offset)..]);
        else await _remote!.WriteAsync(_vector, offset, data).ConfigureAwait(false);
    }

    /// <summary>Loads; returns the bytes read, fewer at the end of the frames.</summary>
    public async ValueTask<int> ReadAsync(ulong offset, Memory<byte> buffer)
    {
        if (_mapped is null) return await _remote!.ReadAsync(_vector, offset, buffer).ConfigureAwait(false);
        if (offset >= _mapped.Length) return 0;
        var count = (int)Math.Min((ulong)buffer.Length, _mapped.Length - offset);
        _mapped.Bytes.Slice((int)offset, count).CopyTo(buffer.Span);
        return count;
    }

    public void Dispose() => _mapped?.Dispose();
}
