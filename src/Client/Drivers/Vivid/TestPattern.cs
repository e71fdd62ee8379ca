using FramePin.Drivers.Native;

namespace FramePin.Drivers.Vivid;

/// <summary>The pictures of the test pattern generator.</summary>
public enum Pattern
{
    /// <summary>Eight bars at 75 %: white, yellow, cyan, green, magenta, red, blue, black.</summary>
    ColorBar75,
    /// <summary>The same at 100 %.</summary>
    ColorBar100,
    /// <summary>All black.</summary>
    Black,
    /// <summary>All white.</summary>
    White,
    /// <summary>Black to white from left to right.</summary>
    Ramp,
}

/// <summary>
/// The test pattern generator: computes a frame, or checks one. Colours by the fixed-point matrix of BT.601, limited
/// range, as vivid's generator computes them (v4l2-tpg-core.c: color_to_ycbcr). No text is drawn over it.
/// </summary>
/// <remarks>
/// Immutable; any thread. A frame is rows of one line, which moves with the frame's number: a frame torn between two
/// differs.
/// </remarks>
public sealed class TestPattern
{
    private static readonly (int Red, int Green, int Blue)[] Bars =
        [(1, 1, 1), (1, 1, 0), (0, 1, 1), (0, 1, 0), (1, 0, 1), (1, 0, 0), (0, 0, 1), (0, 0, 0)];

    /// <summary>Planes of so many bytes are stored past the caches: they would fill the second level alone.</summary>
    private const ulong StreamedBytes = 1 << 20;

    /// <summary>The lines of each plane, twice as long as the picture is wide, so that any shift is one copy.</summary>
    private readonly byte[][] _lines;
    private readonly int _movement;

    /// <summary>Draws the lines of a pattern once.</summary>
    /// <param name="format">Size and layout.</param>
    /// <param name="pattern">The picture.</param>
    /// <param name="movement">Pixels to the left that each frame moves; even for formats whose pixels share
    /// colours.</param>
    public TestPattern(PixelFormat format, Pattern pattern, int movement)
    {
        ArgumentNullException.ThrowIfNull(format);
        if (movement < 0 || movement % format.Group != 0)
            throw new ArgumentOutOfRangeException(
                nameof(movement), movement, $"is 0 or a multiple of {format.Group} pixels");
        Format = format;
        _movement = movement;
        _lines = [.. Enumerable.Range(0, format.Planes.Count).Select(plane => Draw(format, pattern, plane))];
    }

    /// <summary>Size and layout.</summary>
    public PixelFormat Format { get; }

    /// <summary>Bytes of a plane's row in frame <paramref name="sequence"/>.</summary>
    /// <param name="plane">Number of the plane.</param>
    /// <param name="sequence">Number of the frame.</param>
    public ReadOnlySpan<byte> Row(int plane, uint sequence)
    {
        var shift = (int)((ulong)sequence * (ulong)_movement % (ulong)Format.Width);
        return _lines[plane].AsSpan(
            shift * Format.Planes[plane].BitsPerPixel / 8, (int)Format.Planes[plane].BytesPerLine);
    }

    /// <summary>Fills a plane with frame <paramref name="sequence"/>.</summary>
    /// <param name="plane">Number of the plane.</param>
    /// <param name="sequence">Number of the frame.</param>
    /// <param name="into">The plane's memory, at least as long as the plane.</param>
    public void Fill(int plane, uint sequence, Span<byte> into)
    {
        var layout = Format.Planes[plane];
        var row = Row(plane, sequence);
        if (layout.Size < StreamedBytes)
        {
            for (var y = 0; y < layout.Lines; y++) row.CopyTo(into[(y * row.Length)..]);
            return;
        }

        for (var y = 0; y < layout.Lines; y++) StreamingStores.Copy(row, into[(y * row.Length)..]);
        StreamingStores.Fence();
    }

    /// <summary>The first row that is not as frame <paramref name="sequence"/> has it; -1 when all are.</summary>
    /// <param name="plane">Number of the plane.</param>
    /// <param name="sequence">Number of the frame.</param>
    /// <param name="bytes">The plane as it arrived.</param>
    public int FirstWrongRow(int plane, uint sequence, ReadOnlySpan<byte> bytes)
    {
        var row = Row(plane, sequence);
        for (var y = 0; y < Format.Planes[plane].Lines; y++)
            if (!bytes.Slice(y * row.Length, row.Length).SequenceEqual(row)) return y;
        return -1;
    }

    private static byte[] Draw(PixelFormat format, Pattern pattern, int plane)
    {
        var layout = format.Planes[plane];
        var line = new byte[2 * layout.BytesPerLine];
        for (var x = 0; x < 2 * format.Width; x++)
        {
            var (red, green, blue) = ColorAt(pattern, x % format.Width, format.Width);
            format.Put(plane, line, x, red, green, blue);
        }

        return line;
    }

    private static (int Red, int Green, int Blue) ColorAt(Pattern pattern, int x, int width)
    {
        switch (pattern)
        {
            case Pattern.Black:
                return (0, 0, 0);
            case Pattern.White:
                return (255, 255, 255);
            case Pattern.Ramp:
                var grey = x * 256 / width;
                return (grey, grey, grey);
            default:
                var level = pattern == Pattern.ColorBar75 ? 191 : 255;
                var (red, green, blue) = Bars[x * 8 / width];
                return (red * level, green * level, blue * level);
        }
    }
}

/// <summary>One plane of a picture in memory.</summary>
/// <param name="BytesPerLine">Bytes from a row to the next.</param>
/// <param name="Lines">Rows.</param>
/// <param name="BitsPerPixel">Of a pixel of the picture, in this plane.</param>
public sealed record PlaneLayout(uint BytesPerLine, int Lines, int BitsPerPixel)
{
    /// <summary>Bytes of a buffer's plane before the picture (data_offset).</summary>
    public uint DataOffset { get; init; }

    /// <summary>Bytes of the picture.</summary>
    public ulong Size => (ulong)BytesPerLine * (ulong)Lines;
}

/// <summary>A picture's size and how its pixels lie in memory.</summary>
public sealed class PixelFormat
{
    private delegate void Store(int plane, Span<byte> line, int x, int red, int green, int blue);

    private readonly Store _store;

    private PixelFormat(string code, int width, int height, int group, IReadOnlyList<PlaneLayout> planes, Store store)
    {
        Code = code;
        Width = width;
        Height = height;
        Group = group;
        Planes = planes;
        _store = store;
    }

    /// <summary>Formats that there are.</summary>
    public static IReadOnlyList<string> Codes { get; } =
        ["YUYV", "UYVY", "RGB3", "BGR3", "XR24", "GREY", "NM12", "NM16"];

    /// <summary>Four characters.</summary>
    public string Code { get; }

    /// <summary>Pixels.</summary>
    public int Width { get; }

    /// <summary>Pixels.</summary>
    public int Height { get; }

    /// <summary>Pixels that share their colours, and so are drawn together.</summary>
    public int Group { get; }

    /// <summary>One for the packed formats.</summary>
    public IReadOnlyList<PlaneLayout> Planes { get; }

    /// <summary>A format; null for a code that is not known.</summary>
    /// <param name="code">Four characters.</param>
    /// <param name="width">Made even.</param>
    /// <param name="height">Made even.</param>
    public static PixelFormat? Find(string code, int width, int height)
    {
        width &= ~1;
        height &= ~1;
        return code switch
        {
            "YUYV" =>
                Packed(code, width, height, 16, 2,
                    static (_, line, x, r, g, b) => PutYuv(line, x, r, g, b, luma: 0, chroma: 1)),
            "UYVY" =>
                Packed(code, width, height, 16, 2,
                    static (_, line, x, r, g, b) => PutYuv(line, x, r, g, b, luma: 1, chroma: 0)),
            "RGB3" => Packed(code, width, height, 24, 1, static (_, line, x, r, g, b) => Put(line[(x * 3)..], r, g, b)),
            "BGR3" => Packed(code, width, height, 24, 1, static (_, line, x, r, g, b) => Put(line[(x * 3)..], b, g, r)),
            "XR24" => Packed(code, width, height, 32, 1, static (_, line, x, r, g, b) => Put(line[(x * 4)..], b, g, r)),
            "GREY" => Packed(code, width, height, 8, 1, static (_, line, x, r, g, b) => line[x] = (byte)Luma(r, g, b)),
            "NM12" => new PixelFormat(
                code, width, height, 2, [new((uint)width, height, 8), new((uint)width, height / 2, 8)], PutSemiPlanar),
            // PLANE0_DATA_OFFSET: vivid keeps 128 bytes before the luma.
            "NM16" => new PixelFormat(
                code, width, height, 2,
                [new((uint)width, height, 8) { DataOffset = 128 }, new((uint)width, height, 8)], PutSemiPlanar),
            _ => null,
        };
    }

    /// <summary>The same with bytes before the picture of the first plane.</summary>
    internal PixelFormat WithOffset(uint bytes) =>
        new(Code, Width, Height, Group, [Planes[0] with { DataOffset = bytes }, .. Planes.Skip(1)], _store);

    internal void Put(int plane, Span<byte> line, int x, int red, int green, int blue) =>
        _store(plane, line, x, red, green, blue);

    private static PixelFormat Packed(string code, int width, int height, int bits, int group, Store store) =>
        new(code, width, height, group, [new PlaneLayout((uint)(width * bits / 8), height, bits)], store);

    private static void PutYuv(Span<byte> line, int x, int red, int green, int blue, int luma, int chroma)
    {
        line[(x * 2) + luma] = (byte)Luma(red, green, blue);
        line[(x * 2) + chroma] = (byte)((x & 1) == 0 ? ChromaBlue(red, green, blue) : ChromaRed(red, green, blue));
    }

    private static void PutSemiPlanar(int plane, Span<byte> line, int x, int red, int green, int blue)
    {
        if (plane == 0) line[x] = (byte)Luma(red, green, blue);
        else line[x] = (byte)((x & 1) == 0 ? ChromaBlue(red, green, blue) : ChromaRed(red, green, blue));
    }

    private static void Put(Span<byte> pixel, int first, int second, int third)
    {
        pixel[0] = (byte)first;
        pixel[1] = (byte)second;
        pixel[2] = (byte)third;
    }

    /// <summary>BT.601 in steps of 1/65536, values in sixteenths, as the generator's integers have it.</summary>
    private static int Luma(int red, int green, int blue) =>
        Mix(red, green, blue, 0.299 * 219, 0.587 * 219, 0.114 * 219, 16);

    private static int ChromaBlue(int red, int green, int blue) =>
        Mix(red, green, blue, -0.1687 * 224, -0.3313 * 224, 0.5 * 224, 128);

    private static int ChromaRed(int red, int green, int blue) =>
        Mix(red, green, blue, 0.5 * 224, -0.4187 * 224, -0.0813 * 224, 128);

    private static int Mix(int red, int green, int blue, double a, double b, double c, int offset)
    {
        var sum = (Coefficient(a) * (red << 4)) + (Coefficient(b) * (green << 4)) + (Coefficient(c) * (blue << 4));
        return Math.Clamp(((sum >> 16) + (offset << 4)) >> 4, 1, 254);
    }

    private static int Coefficient(double value) => (int)(0.5 + (value * 256));
}
