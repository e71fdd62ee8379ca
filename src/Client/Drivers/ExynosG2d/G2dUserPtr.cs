namespace FramePin.Drivers.ExynosG2d;

/// <summary>A user's buffer that the device may read and write (struct g2d_cmdlist_userptr).</summary>
internal sealed class G2dUserPtr(ulong address, ulong size, PinnedFrames frames, KernelMapping mapping)
{
    public ulong Address { get; } = address;

    public ulong Size { get; } = size;

    public PinnedFrames Frames { get; } = frames;

    public KernelMapping Mapping { get; } = mapping;

    /// <summary>Command lists that name it.</summary>
    public int References { get; set; } = 1;

    /// <summary>Stays pinned when nobody uses it.</summary>
    public bool IsInPool { get; set; }

    /// <summary>Displaced by one of another size: not found any more.</summary>
    public bool IsOutOfList { get; set; }

    /// <summary>Bytes pinned, whole pages.</summary>
    public ulong PinnedBytes => Frames.Count << 12;
}

/// <summary>
/// The cache of user pointers with its pool (drivers/gpu/drm/exynos/exynos_drm_g2d.c: g2d_userptr_get_dma_addr,
/// g2d_userptr_put_dma_addr, g2d_userptr_free_all; Semantics 6.4, rows 105 to 110), with what is known to be
/// wrong in it.
/// </summary>
/// <remarks>Under the device's lock.</remarks>
internal sealed class G2dUserPtrPool(DriverKernel kernel)
{
    /// <summary>MAX_POOL.</summary>
    public const ulong MaxPool = 64UL << 20;

    /// <summary>
    /// Bytes that count as pooled, over all files. Never counted down, only zeroed whenever any file closes.
    /// </summary>
    public ulong CurrentPool { get; private set; }

    /// <summary>
    /// Idle pooled entries that one of another size displaced: nobody releases them any more, as in Linux. Their pins
    /// end with the driver.
    /// </summary>
    public int Leaked { get; private set; }

    /// <summary>Finds the buffer of <paramref name="address"/> and size, or pins it.</summary>
    public async Task<(Errno Errno, G2dUserPtr? UserPtr)> GetAsync(
        List<G2dUserPtr> list, string space, ulong address, ulong size)
    {
        if (size == 0) return (Errno.EINVAL, null);
        if (list.Find(entry => entry.Address == address) is { } known)
        {
            if (known.Size == size)
            {
                known.References++;
                return (Errno.None, known);
            }

            // The device may be at work on it: it is forgotten, and released by whoever uses it last. If nobody does,
            // by nobody.
            if (known.References == 0) Leaked++;
            known.IsOutOfList = true;
            known.IsInPool = false;
            list.Remove(known);
        }

        var start = address & ~4095UL;
        var pages = (((address + size + 4095) & ~4095UL) - start) >> 12;
        var (errno, frames) = await PinAsync(space, start, pages).ConfigureAwait(false);
        if (frames is null) return (errno, null);
        if (await MapAsync(frames, pages).ConfigureAwait(false) is not { } mapping) return (Errno.EFAULT, null);
        var fresh = new G2dUserPtr(address, size, frames, mapping);
        if (CurrentPool + fresh.PinnedBytes < MaxPool)
        {
            CurrentPool += fresh.PinnedBytes;
            fresh.IsInPool = true;
        }

        list.Add(fresh);
        return (Errno.None, fresh);
    }

    /// <summary>A command list is done with it. Pooled ones stay pinned.</summary>
    public async Task PutAsync(List<G2dUserPtr> list, G2dUserPtr entry, bool isForced = false)
    {
        if (!isForced)
        {
            entry.References--;
            if (entry.References > 0 || entry.IsInPool) return;
        }

        entry.Mapping.Dispose();
        // Every page is dirty then, whatever the device did to it.
        await kernel.PutAsync(entry.Frames, isDirty: true).ConfigureAwait(false);
        if (!entry.IsOutOfList) list.Remove(entry);
    }

    /// <summary>A file closes: what its list has pooled is released, and everybody's count begins anew.</summary>
    public async Task FreeAllAsync(List<G2dUserPtr> list)
    {
        foreach (var entry in list.Where(entry => entry.IsInPool).ToList())
            await PutAsync(list, entry, isForced: true).ConfigureAwait(false);
        CurrentPool = 0;
    }

    /// <summary>A view of frames that nobody else owns yet: they are put when none comes of it.</summary>
    private async Task<KernelMapping?> MapAsync(PinnedFrames frames, ulong pages)
    {
        KernelMapping? mapping = null;
        try
        {
            if (frames.Count == pages && await kernel.ToPagesAsync(frames).ConfigureAwait(false))
                mapping = await kernel.MapAsync(frames).ConfigureAwait(false);
            return mapping;
        }
        finally
        {
            if (mapping is null) await kernel.PutAsync(frames, isDirty: false).ConfigureAwait(false);
        }
    }

    private Task<(Errno Errno, PinnedFrames? Frames)> PinAsync(string space, ulong start, ulong pages) =>
        kernel.Features.G2DUsesHelper
        ? kernel.GetVaddrFramesAsync(space, start, pages, isWrite: true, isForce: true)
        : kernel.PinUserPagesFastAsync(space, start, pages, GupBits.Write | GupBits.LongTerm);
}
