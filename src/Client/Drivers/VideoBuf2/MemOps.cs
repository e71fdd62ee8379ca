namespace FramePin.Drivers.VideoBuf2;

/// <summary>Memory that the driver allocated, MMAP.</summary>
internal sealed class AllocatedMemory : Vb2PlaneMemory
{
    private readonly DriverKernel _kernel;

    private AllocatedMemory(DriverKernel kernel, KernelBuffer buffer, KernelMapping mapping)
    {
        _kernel = kernel;
        Buffer = buffer;
        Mapping = mapping;
    }

    public KernelBuffer Buffer { get; }

    public override string Device => Buffer.Device;

    public override Task<bool> IsInUseAsync(CancellationToken cancellationToken = default) =>
        _kernel.IsInUseAsync(Buffer, cancellationToken);

    public static async Task<Vb2PlaneMemory?> CreateAsync(
        DriverKernel kernel, ulong size, bool isPfnMapped, string name, CancellationToken cancellationToken = default)
    {
        if (await kernel.AllocateAsync(size, isPfnMapped, name, cancellationToken).ConfigureAwait(false)
            is not { } buffer)
            return null;
        try
        {
            return new AllocatedMemory(kernel, buffer, await kernel.MapAsync(
                buffer.Frames, cancellationToken).ConfigureAwait(false));
        }
        catch
        {
            await kernel.FreeAsync(buffer, CancellationToken.None).ConfigureAwait(false);
            throw;
        }
    }

    public override async Task PutAsync(CancellationToken cancellationToken = default)
    {
        Mapping!.Dispose();
        await _kernel.FreeAsync(Buffer, cancellationToken).ConfigureAwait(false);
    }
}

/// <summary>Pages or PFNs of a process, USERPTR.</summary>
internal sealed class UserMemory : Vb2PlaneMemory
{
    private readonly DriverKernel _kernel;
    private readonly PinnedFrames _frames;
    private readonly bool _isDirtied;
    private bool _isTaken;

    /// <param name="kernel">Where the frames are put.</param>
    /// <param name="frames">Owned from now on.</param>
    /// <param name="mapping">Owned too; null where the driver has no view.</param>
    /// <param name="address">The user's address: its place in the first page is the plane's.</param>
    /// <param name="isDirtied">Marks the pages dirty before they are put.</param>
    /// <param name="dmaAddress">Where the device finds it.</param>
    public UserMemory(
        DriverKernel kernel, PinnedFrames frames, KernelMapping? mapping, ulong address, bool isDirtied,
        ulong dmaAddress)
    {
        _kernel = kernel;
        _frames = frames;
        _isDirtied = isDirtied;
        Mapping = mapping;
        Offset = address & 4095;
        DmaAddress = dmaAddress;
    }

    public override PutFrames? TakeFrames()
    {
        if (_isTaken) return null;
        _isTaken = true;
        Mapping?.Dispose();
        // Only pages can be dirty (set_page_dirty_lock before put); a PFN vector is left alone.
        return new PutFrames(_frames, _isDirtied && !_frames.IsPfns);
    }

    public override async Task PutAsync(CancellationToken cancellationToken = default)
    {
        if (TakeFrames() is { } put)
            await _kernel.PutAsync(put.Frames, put.IsDirty, cancellationToken).ConfigureAwait(false);
    }
}

/// <summary>A dma-buf, DMABUF. Its reference keeps the pages when the exporter has closed it.</summary>
internal sealed class ImportedMemory : Vb2PlaneMemory
{
    private readonly DriverKernel _kernel;
    private readonly PinnedFrames _frames;

    private ImportedMemory(DriverKernel kernel, PinnedFrames frames, KernelMapping mapping)
    {
        _kernel = kernel;
        _frames = frames;
        Mapping = mapping;
        DmaAddress = frames.Runs[0].First << 12;
    }

    /// <param name="kernel">Where the reference is put.</param>
    /// <param name="name">Name of the frame vector that stands for the dma-buf.</param>
    /// <param name="size">Bytes that the plane needs. A smaller dma-buf is -EFAULT.</param>
    /// <param name="isContiguous">The device wants them in one piece.</param>
    /// <param name="cancellationToken">Gives it up.</param>
    public static async Task<(Errno Errno, Vb2PlaneMemory? Memory)> CreateAsync(
        DriverKernel kernel, string name, ulong size, bool isContiguous, CancellationToken cancellationToken)
    {
        if (await kernel.ImportDmaBufAsync(name, cancellationToken).ConfigureAwait(false) is not { } frames)
            return (Errno.EINVAL, null);
        return await Vb2MemOps.KeepOrPutAsync(
            kernel, frames, MapAsync(kernel, frames, size, isContiguous, cancellationToken)).ConfigureAwait(false);
    }

    private static async Task<(Errno Errno, Vb2PlaneMemory? Memory)> MapAsync(
        DriverKernel kernel, PinnedFrames frames, ulong size, bool isContiguous, CancellationToken cancellationToken)
    {
        if (frames.Count << 12 < size || (isContiguous && frames.LeadingBytes < size)) return (Errno.EFAULT, null);
        return (Errno.None, new ImportedMemory(
            kernel, frames, await kernel.MapAsync(frames, cancellationToken).ConfigureAwait(false)));
    }

    public override async Task PutAsync(CancellationToken cancellationToken = default)
    {
        Mapping!.Dispose();
        await _kernel.PutAsync(_frames, isDirty: false, cancellationToken).ConfigureAwait(false);
    }
}

/// <summary>
/// The common part of the allocators for which pages may lie anywhere: memory of single pages, and any dma-buf.
/// </summary>
/// <param name="kernel">The kernel of the driver.</param>
public abstract class ScatteredMemOps(DriverKernel kernel) : Vb2MemOps(kernel)
{
    /// <inheritdoc />
    public override Task<Vb2PlaneMemory?> AllocAsync(
        ulong size, string name, CancellationToken cancellationToken = default) =>
        AllocatedMemory.CreateAsync(Kernel, size, isPfnMapped: false, name, cancellationToken);

    /// <inheritdoc />
    public override Task<(Errno Errno, Vb2PlaneMemory? Memory)> AttachDmaBufAsync(
        string name, ulong size, CancellationToken cancellationToken = default) =>
        ImportedMemory.CreateAsync(Kernel, name, size, isContiguous: false, cancellationToken);
}

/// <summary>
/// videobuf2-vmalloc.c: memory that is contiguous in the driver's own addresses. Semantics 6.2, rows 79, 84.
/// </summary>
/// <param name="kernel">The kernel of the driver.</param>
public sealed class VmallocMemOps(DriverKernel kernel) : ScatteredMemOps(kernel)
{
    /// <inheritdoc />
    public override async Task<(Errno Errno, Vb2PlaneMemory? Memory)> GetUserPtrAsync(
        string space, ulong address, ulong size, DmaDirection direction, Vb2PlaneMemory? replaced = null,
        CancellationToken cancellationToken = default)
    {
        var (errno, frames) = await Kernel.CreateFramevecAsync(
            space, address, size, IsWrite(direction), replaced?.TakeFrames(), cancellationToken)
            .ConfigureAwait(false);
        return frames is null ? (errno, null) : await KeepOrPutAsync(
            Kernel, frames, MapAsync(frames, address, direction, cancellationToken)).ConfigureAwait(false);
    }

    private async Task<(Errno Errno, Vb2PlaneMemory? Memory)> MapAsync(
        PinnedFrames frames, ulong address, DmaDirection direction, CancellationToken cancellationToken)
    {
        // Without struct pages the device's memory is mapped as it lies (ioremap), which has to be in one piece.
        var isMappable = await Kernel.ToPagesAsync(frames, cancellationToken).ConfigureAwait(false)
            || frames.LeadingBytes >> 12 == frames.Count;
        if (!isMappable) return (Errno.ENOMEM, null);
        var mapping = await Kernel.MapAsync(frames, cancellationToken).ConfigureAwait(false);
        return (Errno.None, new UserMemory(
            Kernel, frames, mapping, address, IsWrite(direction), frames.Runs[0].First << 12));
    }
}

/// <summary>
/// videobuf2-dma-sg.c: a list of pages for a device that can gather. Every failure of the helper is -ENOMEM (row 78).
/// </summary>
/// <param name="kernel">The kernel of the driver.</param>
public sealed class DmaSgMemOps(DriverKernel kernel) : ScatteredMemOps(kernel)
{
    /// <inheritdoc />
    public override async Task<(Errno Errno, Vb2PlaneMemory? Memory)> GetUserPtrAsync(
        string space, ulong address, ulong size, DmaDirection direction, Vb2PlaneMemory? replaced = null,
        CancellationToken cancellationToken = default)
    {
        var (_, frames) = await Kernel.CreateFramevecAsync(
            space, address, size, IsWrite(direction), replaced?.TakeFrames(), cancellationToken)
            .ConfigureAwait(false);
        return frames is null ? (Errno.ENOMEM, null) : await KeepOrPutAsync(
            Kernel, frames, MapAsync(frames, address, direction, cancellationToken)).ConfigureAwait(false);
    }

    private async Task<(Errno Errno, Vb2PlaneMemory? Memory)> MapAsync(
        PinnedFrames frames, ulong address, DmaDirection direction, CancellationToken cancellationToken)
    {
        if (!await Kernel.ToPagesAsync(frames, cancellationToken).ConfigureAwait(false)) return (Errno.ENOMEM, null);
        var mapping = await Kernel.MapAsync(frames, cancellationToken).ConfigureAwait(false);
        return (Errno.None, new UserMemory(
            Kernel, frames, mapping, address, IsWrite(direction), frames.Runs[0].First << 12));
    }
}

/// <summary>videobuf2-dma-contig.c: one piece of device addresses. Semantics 6.2, rows 80 to 83, 86.</summary>
public sealed class DmaContigMemOps : Vb2MemOps
{
    private readonly ulong _alignment;
    private readonly bool _hasIommu;
    private readonly Action<string>? _log;

    /// <summary>Makes an allocator for a device.</summary>
    /// <param name="kernel">The kernel of the driver.</param>
    /// <param name="alignment">DMA cache alignment in bytes, a power of two: 1 on x86, 64 or 128 on arm.</param>
    /// <param name="hasIommu">Scattered pages look like one piece to the device.</param>
    /// <param name="log">Receives the driver's messages to the kernel log; null for none.</param>
    public DmaContigMemOps(DriverKernel kernel, ulong alignment = 1, bool hasIommu = false, Action<string>? log = null)
        : base(kernel)
    {
        if (!ulong.IsPow2(alignment))
            throw new ArgumentOutOfRangeException(nameof(alignment), alignment, "is a power of two");
        _alignment = alignment;
        _hasIommu = hasIommu;
        _log = log;
    }

    /// <inheritdoc />
    public override Task<Vb2PlaneMemory?> AllocAsync(
        ulong size, string name, CancellationToken cancellationToken = default) =>
        AllocatedMemory.CreateAsync(Kernel, size, isPfnMapped: true, name, cancellationToken);

    /// <inheritdoc />
    public override async Task<(Errno Errno, Vb2PlaneMemory? Memory)> GetUserPtrAsync(
        string space, ulong address, ulong size, DmaDirection direction, Vb2PlaneMemory? replaced = null,
        CancellationToken cancellationToken = default)
    {
        if (((address | size) & (_alignment - 1)) != 0)
        {
            _log?.Invoke($"user data must be aligned to {_alignment} bytes");
            return (Errno.EINVAL, null);
        }

        if (size == 0)
        {
            _log?.Invoke("size is zero");
            return (Errno.EINVAL, null);
        }

        var (errno, frames) = await Kernel.CreateFramevecAsync(
            space, address, size, IsWrite(direction), replaced?.TakeFrames(), cancellationToken)
            .ConfigureAwait(false);
        return frames is null ? (errno, null) : await KeepOrPutAsync(
            Kernel, frames, MapAsync(frames, address, size, direction, cancellationToken)).ConfigureAwait(false);
    }

    /// <inheritdoc />
    public override Task<(Errno Errno, Vb2PlaneMemory? Memory)> AttachDmaBufAsync(
        string name, ulong size, CancellationToken cancellationToken = default) =>
        ImportedMemory.CreateAsync(Kernel, name, size, isContiguous: !_hasIommu, cancellationToken);

    private async Task<(Errno Errno, Vb2PlaneMemory? Memory)> MapAsync(
        PinnedFrames frames, ulong address, ulong size, DmaDirection direction, CancellationToken cancellationToken)
    {
        var inPage = address & 4095;
        var first = frames.Runs[0].First << 12;
        if (!await Kernel.ToPagesAsync(frames, cancellationToken).ConfigureAwait(false))
        {
            // Device memory: in one piece or not at all. The offset within its first page is lost, as in Linux
            // (dma_map_resource).
            if (frames.LeadingBytes >> 12 != frames.Count) return (Errno.EINVAL, null);
            var resource = await Kernel.MapAsync(frames, cancellationToken).ConfigureAwait(false);
            return (Errno.None, new UserMemory(Kernel, frames, resource, 0, isDirtied: false, first));
        }

        var contiguous = _hasIommu ? (frames.Count << 12) - inPage : frames.LeadingBytes - inPage;
        if (contiguous < size)
        {
            _log?.Invoke($"contiguous mapping is too small {contiguous}/{size}");
            return (Errno.EFAULT, null);
        }

        // Up to 4.9 pages were dirtied whatever the direction (row 86).
        var isDirtied = IsWrite(direction) || Kernel.Features.Vb2DirtiesAllPages;
        var mapping = await Kernel.MapAsync(frames, cancellationToken).ConfigureAwait(false);
        return (Errno.None, new UserMemory(Kernel, frames, mapping, address, isDirtied, first + inPage));
    }
}
