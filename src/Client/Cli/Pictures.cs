using FramePin.Drivers.Vivid;
using StbImageWriteSharp;

namespace FramePin.Cli;

/// <summary>Frames as files that one can look at.</summary>
internal static class Pictures
{
    private const string Png = ".png";

    /// <summary>The path ends in a form that is written.</summary>
    public static bool IsKnown(string path) =>
        path.EndsWith(Png, StringComparison.OrdinalIgnoreCase) || path.EndsWith(
            ".raw", StringComparison.OrdinalIgnoreCase);

    /// <summary>Saves the first plane of a frame: as PNG when the path ends so, else the bytes as they are.</summary>
    public static void Save(string path, PixelFormat format, ReadOnlySpan<byte> bytes)
    {
        if (!path.EndsWith(Png, StringComparison.OrdinalIgnoreCase))
        {
            File.WriteAllBytes(path, bytes[..(int)format.Planes[0].Size]);
            return;
        }

        using var file = File.Create(path);
        new ImageWriter().WritePng(
            ToRgb(format, bytes), format.Width, format.Height, ColorComponents.RedGreenBlue, file);
    }

    private static byte[] ToRgb(PixelFormat format, ReadOnlySpan<byte> bytes)
    {
        var rgb = new byte[format.Width * format.Height * 3];
        for (var y = 0; y < format.Height; y++)
        {
            var row = bytes.Slice(y * (int)format.Planes[0].BytesPerLine, (int)format.Planes[0].BytesPerLine);
            for (var x = 0; x < format.Width; x++)
            {
                var (red, green, blue) = Pixel(format.Code, row, x);
                var at = ((y * format.Width) + x) * 3;
                (rgb[at], rgb[at + 1], rgb[at + 2]) = (red, green, blue);
            }
        }

        return rgb;
    }

    private static (byte Red, byte Green, byte Blue) Pixel(string code, ReadOnlySpan<byte> row, int x)
    {
        var pair = (x & ~1) * 2;
        return code switch
        {
            "YUYV" => FromYuv(row[x * 2], row[pair + 1], row[pair + 3]),
            "UYVY" => FromYuv(row[(x * 2) + 1], row[pair], row[pair + 2]),
            "RGB3" => (row[x * 3], row[(x * 3) + 1], row[(x * 3) + 2]),
            "BGR3" => (row[(x * 3) + 2], row[(x * 3) + 1], row[x * 3]),
            "XR24" => (row[(x * 4) + 2], row[(x * 4) + 1], row[x * 4]),
            _ => FromYuv(row[x], 128, 128),
        };
    }

    /// <summary>BT.601, limited range.</summary>
    private static (byte Red, byte Green, byte Blue) FromYuv(int luma, int blue, int red)
    {
        var y = 1.164 * (luma - 16);
        return (Byte(y + (1.596 * (red - 128))), Byte(y - (0.392 * (blue - 128)) - (0.813 * (red - 128))),
            Byte(y + (2.017 * (blue - 128))));
    }

    private static byte Byte(double value) => (byte)Math.Clamp(Math.Round(value), 0, 255);
}
