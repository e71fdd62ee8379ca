using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using FramePin.V1;
using Google.Protobuf;
using Layout = FramePin.Drivers.V4l2Layout;

namespace FramePin.Drivers;

/// <summary>
/// The bytes of an ioctl's argument and of the array of planes behind it, read into the typed form and written back
/// from it. Fields that the typed form does not have become what v4l2-ioctl.c and videobuf2-v4l2.c make of them.
/// </summary>
/// <param name="bytes">The structure.</param>
/// <param name="planes">The array of struct v4l2_plane; empty for none.</param>
/// <param name="machine">"machines/{m}": a dma-buf's descriptor is the number of its frame vector there.</param>
internal sealed class V4l2Structures(byte[] bytes, byte[] planes, string machine)
{
    private const uint MemoryUserPtr = 2;
    private const uint MemoryDmaBuf = 4;
    private const uint HasDeviceCapabilities = 0x8000_0000;
    private const uint FlagTimecode = 0x100;

    /// <summary>V4L2_TYPE_IS_MULTIPLANAR.</summary>
    public static bool IsMultiplanar(uint type) =>
        type is V4l2.BufferType.CaptureMplane or V4l2.BufferType.OutputMplane;

    public static IMessage NoArgument() => new V4l2Capability();

    public void WriteCapability(V4l2Capability answer, uint version)
    {
        Array.Clear(bytes);
        Encoding.ASCII.GetBytes(answer.Driver, bytes.AsSpan(Layout.Capability.Driver, 15));
        Encoding.ASCII.GetBytes(answer.Card, bytes.AsSpan(Layout.Capability.Card, 31));
        Encoding.ASCII.GetBytes($"platform:{answer.Driver}-000", bytes.AsSpan(Layout.Capability.BusInfo, 31));
        Put(Layout.Capability.Version, version);
        Put(Layout.Capability.Capabilities, answer.Capabilities | HasDeviceCapabilities);
        Put(Layout.Capability.DeviceCaps, answer.Capabilities);
    }

    public V4l2Format ReadFormat() => ReadFormat(0);

    /// <summary>v4l_g_fmt, v4l_s_fmt and v4l_try_fmt clear what the driver does not set.</summary>
    public void WriteFormat(V4l2Format answer)
    {
        Array.Clear(bytes, Layout.Format.Union, bytes.Length - Layout.Format.Union);
        Put(Layout.Format.Width, answer.Width);
        Put(Layout.Format.Height, answer.Height);
        Put(Layout.Format.PixelFormat, answer.PixelFormat);
        Put(Layout.Format.Field, answer.Field);
        if (!IsMultiplanar(answer.Type))
        {
            Put(Layout.PixFormat.BytesPerLine, answer.Planes[0].BytesPerLine);
            Put(Layout.PixFormat.SizeImage, answer.Planes[0].SizeImage);
            Put(Layout.PixFormat.Colorspace, answer.Colorspace);
            Put(Layout.PixFormat.Priv, Layout.PrivMagic);
            return;
        }

        Put(Layout.PixFormatMplane.Colorspace, answer.Colorspace);
        bytes[Layout.PixFormatMplane.NumPlanes] = (byte)answer.Planes.Count;
        for (var i = 0; i < answer.Planes.Count; i++)
        {
            var at = Layout.PixFormatMplane.PlaneFormats + (i * Layout.PixFormatMplane.PlaneFormatBytes);
            Put(at + Layout.PixFormatMplane.PlaneSizeImage, answer.Planes[i].SizeImage);
            Put(at + Layout.PixFormatMplane.PlaneBytesPerLine, answer.Planes[i].BytesPerLine);
        }
    }

    public V4l2RequestBuffers ReadRequest() => new()
    {
        Count = Get(Layout.RequestBuffers.Count),
        Type = Get(Layout.RequestBuffers.Type),
        Memory = Get(Layout.RequestBuffers.Memory),
    };

    /// <summary>V4L2_MEMORY_FLAG_NON_COHERENT goes where a queue takes no hints for caches.</summary>
    public void WriteRequest(V4l2RequestBuffers answer)
    {
        Put(Layout.RequestBuffers.Count, answer.Count);
        Put(Layout.RequestBuffers.Capabilities, answer.Capabilities);
        Put(Layout.RequestBuffers.Flags, 0);
    }

    public V4l2CreateBuffers ReadCreate() => new()
    {
        Count = Get(Layout.CreateBuffers.Count),
        Memory = Get(Layout.CreateBuffers.Memory),
        Format = ReadFormat(Layout.CreateBuffers.Format),
    };

    /// <summary>The format stays the caller's, behind v4l_sanitize_format.</summary>
    public void WriteCreate(V4l2CreateBuffers answer)
    {
        Put(Layout.CreateBuffers.Index, answer.Index);
        Put(Layout.CreateBuffers.Count, answer.Count);
        Array.Clear(bytes, Layout.CreateBuffers.Capabilities, bytes.Length - Layout.CreateBuffers.Capabilities);
        Put(Layout.CreateBuffers.Capabilities, answer.Capabilities);
        Put(Layout.CreateBuffers.MaxNumBuffers, answer.MaxNumBuffers);
        const int priv = Layout.CreateBuffers.Format + Layout.PixFormat.Priv;
        if (IsMultiplanar(answer.Format.Type) || Get(priv) == Layout.PrivMagic) return;
        Put(priv, Layout.PrivMagic);
        Array.Clear(
            bytes, Layout.CreateBuffers.Format + Layout.PixFormat.Flags, Layout.PixFormat.End - Layout.PixFormat.Flags);
    }

    public V4l2RemoveBuffers ReadRemove() => new()
    {
        Index = Get(Layout.RemoveBuffers.Index),
        Count = Get(Layout.RemoveBuffers.Count),
        Type = Get(Layout.RemoveBuffers.Type),
    };

    public void WriteRemove() =>
        Array.Clear(bytes, Layout.RemoveBuffers.Reserved, bytes.Length - Layout.RemoveBuffers.Reserved);

    public V4l2ExportBuffer ReadExport() => new()
    {
        Type = Get(Layout.ExportBuffer.Type),
        Index = Get(Layout.ExportBuffer.Index),
        Plane = Get(Layout.ExportBuffer.Plane),
        Flags = Get(Layout.ExportBuffer.Flags),
    };

    public void WriteExport(V4l2ExportBuffer answer)
    {
        Array.Clear(bytes, Layout.ExportBuffer.Fd, bytes.Length - Layout.ExportBuffer.Fd);
        Put(Layout.ExportBuffer.Fd, DescriptorOf(answer.DmaBuf));
    }

    public V4l2Stream ReadStream() => new() { Type = Get(0) };

    public V4l2Buffer ReadBuffer()
    {
        var buffer = new V4l2Buffer
        {
            Index = Get(Layout.Buffer.Index),
            Type = Get(Layout.Buffer.Type),
            Flags = Get(Layout.Buffer.Flags),
            Field = Get(Layout.Buffer.Field),
            Timestamp = unchecked((GetLong(bytes, Layout.Buffer.Seconds) * Second)
                + (GetLong(bytes, Layout.Buffer.Microseconds) * 1000)),
            Memory = Get(Layout.Buffer.Memory),
            RequestFd = (int)Get(Layout.Buffer.RequestFd),
        };
        if (!IsMultiplanar(buffer.Type))
        {
            var plane = ReadMemory(buffer.Memory, bytes, Layout.Buffer.M);
            (plane.BytesUsed, plane.Length) = (Get(Layout.Buffer.BytesUsed), Get(Layout.Buffer.Length));
            buffer.Planes.Add(plane);
            return buffer;
        }

        buffer.Length = Get(Layout.Buffer.Length);
        for (var at = 0; at < planes.Length; at += Layout.Plane.Bytes)
        {
            var plane = ReadMemory(buffer.Memory, planes, at + Layout.Plane.M);
            plane.BytesUsed = Get(planes, at + Layout.Plane.BytesUsed);
            plane.Length = Get(planes, at + Layout.Plane.Length);
            plane.DataOffset = Get(planes, at + Layout.Plane.DataOffset);
            buffer.Planes.Add(plane);
        }

        return buffer;
    }

    /// <summary>__fill_v4l2_buffer.</summary>
    public void WriteBuffer(V4l2Buffer answer)
    {
        Put(Layout.Buffer.Index, answer.Index);
        Put(Layout.Buffer.Flags, answer.Flags);
        Put(Layout.Buffer.Field, answer.Field);
        PutLong(bytes, Layout.Buffer.Seconds, answer.Timestamp / Second);
        PutLong(bytes, Layout.Buffer.Microseconds, answer.Timestamp % Second / 1000);
        if ((answer.Flags & FlagTimecode) == 0)
            Array.Clear(bytes, Layout.Buffer.Timecode, Layout.Buffer.TimecodeBytes);
        Put(Layout.Buffer.Sequence, answer.Sequence);
        Put(Layout.Buffer.Memory, answer.Memory);
        Put(Layout.Buffer.Reserved2, 0);
        Put(Layout.Buffer.RequestFd, (uint)answer.RequestFd);
        if (!IsMultiplanar(answer.Type))
        {
            Put(Layout.Buffer.BytesUsed, answer.Planes[0].BytesUsed);
            Put(Layout.Buffer.Length, answer.Planes[0].Length);
            WriteMemory(answer.Memory, answer.Planes[0], bytes, Layout.Buffer.M);
            return;
        }

        Put(Layout.Buffer.BytesUsed, 0);
        Put(Layout.Buffer.Length, answer.Length);
        for (var i = 0; i < answer.Planes.Count; i++)
        {
            var at = i * Layout.Plane.Bytes;
            Put(planes, at + Layout.Plane.BytesUsed, answer.Planes[i].BytesUsed);
            Put(planes, at + Layout.Plane.Length, answer.Planes[i].Length);
            WriteMemory(answer.Memory, answer.Planes[i], planes, at + Layout.Plane.M);
            Put(planes, at + Layout.Plane.DataOffset, answer.Planes[i].DataOffset);
            Array.Clear(planes, at + Layout.Plane.Reserved, Layout.Plane.Bytes - Layout.Plane.Reserved);
        }
    }

    /// <summary>Nanoseconds.</summary>
    private const ulong Second = 1_000_000_000;

    private V4l2Format ReadFormat(int from)
    {
        var format = new V4l2Format
        {
            Type = Get(from + Layout.Format.Type),
            Width = Get(from + Layout.Format.Width),
            Height = Get(from + Layout.Format.Height),
            PixelFormat = Get(from + Layout.Format.PixelFormat),
            Field = Get(from + Layout.Format.Field),
        };
        if (!IsMultiplanar(format.Type))
        {
            format.Colorspace = Get(from + Layout.PixFormat.Colorspace);
            format.Planes.Add(new V4l2PlaneFormat
            {
                BytesPerLine = Get(from + Layout.PixFormat.BytesPerLine),
                SizeImage = Get(from + Layout.PixFormat.SizeImage),
            });
            return format;
        }

        format.Colorspace = Get(from + Layout.PixFormatMplane.Colorspace);
        for (var i = 0; i < Math.Min((int)bytes[from + Layout.PixFormatMplane.NumPlanes], V4l2.MaxPlanes); i++)
        {
            var at = from + Layout.PixFormatMplane.PlaneFormats + (i * Layout.PixFormatMplane.PlaneFormatBytes);
            format.Planes.Add(new V4l2PlaneFormat
            {
                BytesPerLine = Get(at + Layout.PixFormatMplane.PlaneBytesPerLine),
                SizeImage = Get(at + Layout.PixFormatMplane.PlaneSizeImage),
            });
        }

        return format;
    }

    private V4l2Plane ReadMemory(uint memory, byte[] from, int at) => memory switch
    {
        MemoryUserPtr => new V4l2Plane { UserPointer = GetLong(from, at) },
        MemoryDmaBuf when (int)Get(from, at) is >= 0 and var fd =>
            new V4l2Plane { DmaBuf = string.Create(CultureInfo.InvariantCulture, $"{machine}/frameVectors/{fd}") },
        _ => new V4l2Plane(),
    };

    /// <summary>An offset and a descriptor have four bytes: the other four stay the caller's.</summary>
    private static void WriteMemory(uint memory, V4l2Plane plane, byte[] into, int at)
    {
        if (memory == MemoryUserPtr) PutLong(into, at, plane.UserPointer);
        else Put(into, at, memory == MemoryDmaBuf ? DescriptorOf(plane.DmaBuf) : plane.Offset);
    }

    /// <summary>The number of a dma-buf's frame vector; 0 for no dma-buf, as in a plane that had none.</summary>
    private static uint DescriptorOf(string dmaBuf) =>
        dmaBuf.Length == 0 ? 0 : uint.Parse(dmaBuf.AsSpan(dmaBuf.LastIndexOf('/') + 1), CultureInfo.InvariantCulture);

    private uint Get(int at) => Get(bytes, at);

    private void Put(int at, uint value) => Put(bytes, at, value);

    private static uint Get(byte[] from, int at) => BinaryPrimitives.ReadUInt32LittleEndian(from.AsSpan(at));

    private static ulong GetLong(byte[] from, int at) => BinaryPrimitives.ReadUInt64LittleEndian(from.AsSpan(at));

    private static void Put(byte[] into, int at, uint value) =>
        BinaryPrimitives.WriteUInt32LittleEndian(into.AsSpan(at), value);

    private static void PutLong(byte[] into, int at, ulong value) =>
        BinaryPrimitives.WriteUInt64LittleEndian(into.AsSpan(at), value);
}
