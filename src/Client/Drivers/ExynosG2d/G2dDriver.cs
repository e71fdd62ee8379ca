using FramePin.V1;

namespace FramePin.Drivers.ExynosG2d;

/// <summary>Registers of the 2D engine that command lists may write (exynos_drm_g2d.c), as byte offsets.</summary>
public static class G2dRegisters
{
    /// <summary>First offset that a list may write.</summary>
    public const uint ValidStart = 0x0104;

    /// <summary>First offset behind those that a list may write.</summary>
    public const uint ValidEnd = 0x0880;

    /// <summary>SRC_SELECT: 0 for memory, 1 for the foreground colour.</summary>
    public const uint SourceSelect = 0x0300;

    /// <summary>SRC_BASE_ADDR: the source in memory.</summary>
    public const uint SourceBase = 0x0304;

    /// <summary>SRC_STRIDE_REG: bytes of a source line.</summary>
    public const uint SourceStride = 0x0308;

    /// <summary>SRC_COLOR_MODE: pixel format of the source.</summary>
    public const uint SourceColorMode = 0x030c;

    /// <summary>SRC_LEFT_TOP: first corner of the source rectangle.</summary>
    public const uint SourceLeftTop = 0x0310;

    /// <summary>SRC_RIGHT_BOTTOM: the corner behind it.</summary>
    public const uint SourceRightBottom = 0x0314;

    /// <summary>DST_BASE_ADDR: the destination in memory.</summary>
    public const uint DestinationBase = 0x0404;

    /// <summary>DST_STRIDE_REG: bytes of a destination line.</summary>
    public const uint DestinationStride = 0x0408;

    /// <summary>DST_COLOR_MODE: pixel format of the destination.</summary>
    public const uint DestinationColorMode = 0x040c;

    /// <summary>DST_LEFT_TOP: first corner of the destination rectangle.</summary>
    public const uint DestinationLeftTop = 0x0410;

    /// <summary>DST_RIGHT_BOTTOM: the corner behind it.</summary>
    public const uint DestinationRightBottom = 0x0414;

    /// <summary>FG_COLOR: the colour of a fill.</summary>
    public const uint ForegroundColor = 0x0700;

    /// <summary>Set in a buffer register's offset: the buffer is a user pointer.</summary>
    public const uint UserPointer = 0x8000_0000;

    /// <summary>A point as a register's value: y in the high half, x in the low one.</summary>
    /// <param name="x">Pixels from the left.</param>
    /// <param name="y">Lines from the top.</param>
    public static uint Point(int x, int y) => ((uint)y << 16) | (uint)x;
}

/// <summary>
/// The Exynos 2D engine (drivers/gpu/drm/exynos/exynos_drm_g2d.c; Semantics 6.4): command lists that name user
/// memory, run by an engine that copies and fills rectangles.
/// </summary>
/// <remarks>Any thread; one lock for the device, as cmdlist_mutex and runqueue_mutex together.</remarks>
public sealed class G2dDriver : DriverModule
{
    /// <summary>DRM_IOCTL_EXYNOS_G2D_SET_CMDLIST.</summary>
    public const string SetCommandList = "DRM_EXYNOS_G2D_SET_CMDLIST";

    /// <summary>DRM_IOCTL_EXYNOS_G2D_EXEC.</summary>
    public const string Execute = "DRM_EXYNOS_G2D_EXEC";

    /// <summary>DRM_IOCTL_EXYNOS_G2D_GET_VER.</summary>
    public const string GetVersion = "DRM_EXYNOS_G2D_GET_VER";

    /// <summary>G2D_CMDLIST_NUM: lists of all files together that wait or run.</summary>
    public const int MaxLists = 64;

    /// <summary>Words that fit into a list.</summary>
    private const int MaxWords = 1018;
    private const int MaxSide = 8000;

    private readonly SemaphoreSlim _lock = new(1, 1);
    private readonly DriverKernel _kernel;
    private readonly G2dUserPtrPool _pool;
    private int _lists;

    /// <summary>Makes the driver.</summary>
    /// <param name="kernel">The kernel of the driver, which stays the caller's.</param>
    public G2dDriver(DriverKernel kernel)
    {
        _kernel = kernel;
        _pool = new G2dUserPtrPool(kernel);
    }

    /// <inheritdoc />
    public override string Name => "exynos-g2d";

    /// <inheritdoc />
    public override string Lease => _kernel.Lease;

    /// <summary>Bytes counted as pooled (current_pool).</summary>
    public ulong CurrentPool => _pool.CurrentPool;

    /// <summary>Entries that Linux, too, never releases; see <see cref="G2dUserPtrPool.Leaked"/>.</summary>
    public int LeakedEntries => _pool.Leaked;

    /// <summary>Rectangles drawn.</summary>
    public ulong Blits { get; private set; }

    /// <inheritdoc />
    public override ValueTask<(Errno Errno, DriverFile? File)> OpenAsync(
        CancellationToken cancellationToken = default) =>
        ValueTask.FromResult<(Errno, DriverFile?)>((Errno.None, new G2dFile(this)));

    /// <inheritdoc />
    public override ValueTask DisposeAsync()
    {
        _lock.Dispose();
        return base.DisposeAsync();
    }

    /// <summary>exynos_g2d_set_cmdlist_ioctl.</summary>
    private async Task<Errno> SetAsync(G2dFile file, G2dCommandList argument, string space)
    {
        if (_lists >= MaxLists) return Errno.ENOMEM;
        if ((2 * (argument.Commands.Count + argument.Buffers.Count)) + 2 > MaxWords) return Errno.EINVAL;
        var list = new CommandList();
        foreach (var command in argument.Commands)
        {
            if (!IsInWindow(command.Offset) || IsBufferRegister(command.Offset)) return Errno.EINVAL;
            list.Registers[command.Offset] = command.Value;
        }

        foreach (var buffer in argument.Buffers)
        {
            var offset = buffer.Offset & ~G2dRegisters.UserPointer;
            if (!IsInWindow(offset) || !IsBufferRegister(offset)) return Errno.EINVAL;
            var errno = await MapAsync(file, list, offset, buffer, space).ConfigureAwait(false);
            if (errno == Errno.None) continue;
            // g2d_map_cmdlist_gem: whatever it was (row 105).
            await UnmapAsync(file, list).ConfigureAwait(false);
            return Errno.EFAULT;
        }

        _lists++;
        file.InUse.Add(list);
        return Errno.None;
    }

    private async Task<Errno> MapAsync(
        G2dFile file, CommandList list, uint offset, G2dBufferRegister buffer, string space)
    {
        // Buffers of the graphics manager are not emulated: only user pointers are.
        if ((buffer.Offset & G2dRegisters.UserPointer) == 0) return Errno.EINVAL;
        if (!IsSound(list, offset == G2dRegisters.SourceBase, buffer.Size)) return Errno.EFAULT;
        var (errno, entry) = await _pool.GetAsync(
            file.UserPtrs, space, buffer.UserPointer, buffer.Size).ConfigureAwait(false);
        if (entry is not null) list.Buffers[offset] = entry;
        return errno;
    }

    /// <summary>
    /// g2d_check_buf_desc_is_valid: a rectangle of 1 to 8000 pixels each way, whose last byte lies in the buffer.
    /// </summary>
    private static bool IsSound(CommandList list, bool isSource, ulong size)
    {
        var area = list.Rectangle(isSource);
        if (area.Width is < 1 or > MaxSide || area.Height is < 1 or > MaxSide) return false;
        var last = ((area.Bottom - 1L) * area.Stride) + ((long)area.Right * area.BytesPerPixel) - 1;
        return last >= 0 && (ulong)last < size;
    }

    private async Task UnmapAsync(G2dFile file, CommandList list)
    {
        foreach (var entry in list.Buffers.Values) await _pool.PutAsync(file.UserPtrs, entry).ConfigureAwait(false);
        list.Buffers.Clear();
    }

    /// <summary>exynos_g2d_exec_ioctl: -EPERM when nothing was set.</summary>
    private async Task<Errno> ExecuteAsync(G2dFile file)
    {
        if (file.InUse.Count == 0) return Errno.EPERM;
        var lists = file.InUse.ToList();
        file.InUse.Clear();
        foreach (var list in lists)
        {
            await BlitAsync(list).ConfigureAwait(false);
            await UnmapAsync(file, list).ConfigureAwait(false);
            _lists--;
        }

        return Errno.None;
    }

    /// <summary>
    /// The engine: the smaller of both rectangles is copied or filled, row by row. A list without a destination draws
    /// nothing.
    /// </summary>
    private async Task BlitAsync(CommandList list)
    {
        if (!list.Buffers.TryGetValue(G2dRegisters.DestinationBase, out var destination)) return;
        var to = list.Rectangle(isSource: false);
        var isFill = list.Registers.GetValueOrDefault(G2dRegisters.SourceSelect) == 1;
        if (!isFill && !list.Buffers.ContainsKey(G2dRegisters.SourceBase)) return;
        var from = isFill ? to : list.Rectangle(isSource: true);
        // The engine converts between formats; here only one and the same is drawn.
        if (from.BytesPerPixel != to.BytesPerPixel) return;
        var width = Math.Min(from.Width, to.Width) * to.BytesPerPixel;
        var row = new byte[width];
        if (isFill) FillRow(row, list.Registers.GetValueOrDefault(G2dRegisters.ForegroundColor), to.BytesPerPixel);
        for (var y = 0; y < Math.Min(from.Height, to.Height); y++)
        {
            if (!isFill)
            {
                var source = list.Buffers[G2dRegisters.SourceBase];
                await source.Mapping.ReadAsync((source.Address & 4095) + from.ByteAt(y), row).ConfigureAwait(false);
            }

            await destination.Mapping.WriteAsync(
                (destination.Address & 4095) + to.ByteAt(y), row).ConfigureAwait(false);
        }

        Blits++;
    }

    private static void FillRow(Span<byte> row, uint color, int bytesPerPixel)
    {
        for (var i = 0; i < row.Length; i++) row[i] = (byte)(color >> (8 * (i % bytesPerPixel)));
    }

    private static bool IsInWindow(uint offset) =>
        offset is >= G2dRegisters.ValidStart and <= G2dRegisters.ValidEnd && offset % 4 == 0;

    private static bool IsBufferRegister(uint offset) =>
        offset is G2dRegisters.SourceBase or G2dRegisters.DestinationBase;

    /// <summary>A part of a picture in memory.</summary>
    private readonly record struct Area(int Left, int Top, int Right, int Bottom, int Stride, int BytesPerPixel)
    {
        public int Width => Right - Left;

        public int Height => Bottom - Top;

        public ulong ByteAt(int row) => ((ulong)(Top + row) * (ulong)Stride) + ((ulong)Left * (ulong)BytesPerPixel);
    }

    private sealed class CommandList
    {
        public Dictionary<uint, uint> Registers { get; } = [];

        public Dictionary<uint, G2dUserPtr> Buffers { get; } = [];

        public Area Rectangle(bool isSource)
        {
            var first = isSource ? G2dRegisters.SourceBase : G2dRegisters.DestinationBase;
            var leftTop = Registers.GetValueOrDefault(first + 0xc);
            var rightBottom = Registers.GetValueOrDefault(first + 0x10);
            return new Area(
                (int)(leftTop & 0xffff), (int)(leftTop >> 16), (int)(rightBottom & 0xffff), (int)(rightBottom >> 16),
                (short)Registers.GetValueOrDefault(first + 4), BytesOf(Registers.GetValueOrDefault(first + 8)));
        }

        /// <summary>
        /// 32 bits a pixel for the first format, 16 for the others that are named, 24 for packed RGB.
        /// </summary>
        private static int BytesOf(uint colorMode) => (colorMode & 0xf) switch
        {
            0 => 4,
            6 => 3,
            _ => 2,
        };
    }

    private sealed class G2dFile(G2dDriver driver) : DriverFile
    {
        /// <summary>User pointers of this file, by age.</summary>
        public List<G2dUserPtr> UserPtrs { get; } = [];

        /// <summary>Lists that were set and not executed.</summary>
        public List<CommandList> InUse { get; } = [];

        public override async ValueTask<IoctlResult> IoctlAsync(
            IoctlContext context, CancellationToken signal = default)
        {
            await driver._lock.WaitAsync(CancellationToken.None).ConfigureAwait(false);
            try
            {
                return context.Command switch
                {
                    SetCommandList => await driver.SetAsync(
                        this, G2dCommandList.Parser.ParseFrom(context.Argument), context.AddressSpace)
                        .ConfigureAwait(false),
                    Execute => await driver.ExecuteAsync(this).ConfigureAwait(false),
                    GetVersion => new IoctlResult(Errno.None, new G2dVersion { Major = 4, Minor = 1 }),
                    _ => Errno.ENOTTY,
                };
            }
            finally
            {
                driver._lock.Release();
            }
        }

        /// <summary>g2d_close: lists that wait are dropped, pooled pages released.</summary>
        public override async ValueTask ReleaseAsync(CancellationToken cancellationToken = default)
        {
            await driver._lock.WaitAsync(CancellationToken.None).ConfigureAwait(false);
            try
            {
                foreach (var list in InUse)
                {
                    await driver.UnmapAsync(this, list).ConfigureAwait(false);
                    driver._lists--;
                }

                InUse.Clear();
                await driver._pool.FreeAllAsync(UserPtrs).ConfigureAwait(false);
            }
            finally
            {
                driver._lock.Release();
            }
        }
    }
}
