using FramePin.Drivers.Vivid;
using Xunit;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// The test pattern generator stores the same bytes by every way into memory, and no byte beside them.
/// </summary>
public sealed class TestPatternTests
{
    [Theory]
    [InlineData("YUYV", 640, 480)]
    [InlineData("YUYV", 1920, 1080)]
    [InlineData("RGB3", 1366, 768)]
    [InlineData("GREY", 1922, 1082)]
    [InlineData("NM12", 1922, 1082)]
    public void A_picture_is_its_rows_wherever_it_begins_in_memory(string code, int width, int height)
    {
        var format = PixelFormat.Find(code, width, height)!;
        var pattern = new TestPattern(format, Pattern.ColorBar75, movement: 2);
        foreach (var offset in new[] { 0, 1, 31, 33, 64, 4095 })
        {
            for (var plane = 0; plane < format.Planes.Count; plane++)
            {
                var size = (int)format.Planes[plane].Size;
                var memory = GC.AllocateArray<byte>(size + offset + 64, pinned: true);
                Array.Fill(memory, (byte)0xee);
                pattern.Fill(plane, 7, memory.AsSpan(offset, size));
                Assert.Equal(-1, pattern.FirstWrongRow(plane, 7, memory.AsSpan(offset, size)));
                Assert.All(memory[..offset], value => Assert.Equal(0xee, value));
                Assert.All(memory[(offset + size)..], value => Assert.Equal(0xee, value));
            }
        }
    }
}
