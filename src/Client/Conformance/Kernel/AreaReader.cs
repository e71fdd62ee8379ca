using System.Globalization;
using System.Text;
using FramePin.Conformance.Native;

namespace FramePin.Conformance.Kernel;

/// <summary>A line of /proc/PID/maps, with the VmFlags of smaps if that was read.</summary>
internal readonly record struct Area(
    ulong Start, ulong End, string Permissions, ulong Offset, string Name, string Flags);

/// <summary>Reads /proc/PID/maps or smaps.</summary>
internal sealed class AreaReader
{
    private byte[] _text = new byte[256 << 10];

    public List<Area> Read(int fd)
    {
        var length = 0;
        while (true)
        {
            if (_text.Length - length < 64 << 10) Array.Resize(ref _text, _text.Length * 2);
            var done = LibC.Read(fd, _text.AsSpan(length), (ulong)length);
            if (done < 0) throw new System.ComponentModel.Win32Exception((int)-done, "reading maps");
            if (done == 0) break;
            length += (int)done;
        }

        var areas = new List<Area>();
        var rest = _text.AsSpan(0, length);
        while (!rest.IsEmpty)
        {
            var newline = rest.IndexOf((byte)'\n');
            var line = rest[..newline];
            rest = rest[(newline + 1)..];
            // Lines of smaps begin with a capital letter, those of maps with a hex digit.
            if (line[0] is >= (byte)'0' and <= (byte)'9' or >= (byte)'a' and <= (byte)'f') areas.Add(Parse(line));
            else if (line.StartsWith("VmFlags: "u8))
                areas[^1] = areas[^1] with { Flags = Encoding.ASCII.GetString(line[9..]) };
        }

        return areas;
    }

    private static Area Parse(ReadOnlySpan<byte> line)
    {
        var dash = line.IndexOf((byte)'-');
        var start = Hex(line[..dash]);
        line = line[(dash + 1)..];
        var space = line.IndexOf((byte)' ');
        var end = Hex(line[..space]);
        line = line[(space + 1)..];
        var permissions = Encoding.ASCII.GetString(line[..4]);
        line = line[5..];
        space = line.IndexOf((byte)' ');
        var offset = Hex(line[..space]);
        line = line[(space + 1)..];
        // Device and inode are the host's own.
        line = line[(line.IndexOf((byte)' ') + 1)..];
        space = line.IndexOf((byte)' ');
        var name = space < 0 ? "" : Encoding.UTF8.GetString(line[space..]).Trim();
        return new Area(start, end, permissions, offset, name, "");
    }

    private static ulong Hex(ReadOnlySpan<byte> digits) =>
        ulong.Parse(digits, NumberStyles.HexNumber, CultureInfo.InvariantCulture);
}
