using System.Buffers.Binary;
using System.Globalization;
using FramePin.Conformance.Native;

namespace FramePin.Conformance.Kernel;

/// <summary>The host cannot lend swap; the message says why.</summary>
public sealed class SwapUnavailableException(string message) : Exception(message);

/// <summary>
/// Swap borrowed from the host for a run: the first zram device, which answers at once, without read-ahead. FramePin's
/// swap is like that. Given back with the loan.
/// </summary>
internal static class SwapSpace
{
    /// <summary>More than twice what scripts can fill, so that it is never half full.</summary>
    public const ulong Size = 256UL << 20;

    private const string Device = "/dev/zram0";
    private const string Settings = "/sys/block/zram0/";
    private const string ReadAheadFile = "/proc/sys/vm/page-cluster";

    /// <summary>
    /// Takes the device and turns swap on, until <paramref name="loan"/> ends. Throws
    /// <see cref="SwapUnavailableException"/> with the reason where that cannot be: no root, no zram, or swap that
    /// somebody else uses.
    /// </summary>
    public static void Borrow(HostLoan? loan)
    {
        if (loan is null) throw new SwapUnavailableException("swap is root's to turn on");
        if (!File.Exists(Settings + "disksize")) throw new SwapUnavailableException($"this kernel has no {Device}");
        if (HostSettings.SwapAreas().Count > 0)
            throw new SwapUnavailableException("the host uses swap of its own: 'swapoff -a' first");
        if (File.ReadAllText(Settings + "disksize").Trim() != "0")
            throw new SwapUnavailableException($"{Device} is in use");
        loan.AddSwap(Settings, Device);
        try
        {
            File.WriteAllText(Settings + "disksize", Size.ToString(CultureInfo.InvariantCulture));
            using var device = new FileStream(Device, FileMode.Open, FileAccess.Write);
            device.Write(Header());
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            throw new SwapUnavailableException($"{Device}: {exception.Message}");
        }

        var error = LibC.SwapOn(Device);
        if (error != 0) throw new SwapUnavailableException($"swapon {Device}: {(Core.Abi.Errno)error}");
        loan.Set(ReadAheadFile, "0");
    }

    /// <summary>Turns swap off where it is on, and empties the device. Throws <see cref="IOException"/> when it stays
    /// on.</summary>
    public static void TurnOff(string settings, string device)
    {
        if (HostSettings.SwapAreas().Contains(device) && LibC.SwapOff(device) is var error && error != 0)
            throw new IOException($"swapoff: {(Core.Abi.Errno)error}");
        File.WriteAllText(settings + "reset", "1");
    }

    /// <summary>
    /// The first page of a swap area (union swap_header): version 1, the last page, the signature at the end.
    /// </summary>
    private static byte[] Header()
    {
        const int page = 4096;
        const int info = 1024;
        var header = new byte[page];
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(info), 1);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(info + 4), (uint)(Size / page) - 1);
        "SWAPSPACE2"u8.CopyTo(header.AsSpan(page - 10));
        return header;
    }
}
