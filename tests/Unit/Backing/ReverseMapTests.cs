using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using Xunit;

namespace FramePin.Tests.Unit.Backing;

/// <summary>Order and ranges of <see cref="ReverseMap"/>.</summary>
public sealed class ReverseMapTests
{
    private const ulong Page = PageGeometry.PageSize;

    private sealed class Area(int space, ulong firstPage, ulong pages, ulong offset) : IMapping
    {
        public SpaceId SpaceId { get; } = new(space);

        public AddressRange Range { get; set; } = new(firstPage * Page, (firstPage + pages) * Page);

        public ulong PageOffset { get; set; } = offset;
    }

    [Fact]
    public void Areas_come_by_address_space_and_then_by_address_in_whatever_order_they_were_added()
    {
        var areas = new List<Area>();
        for (var space = 1; space <= 7; space++)
            for (var i = 0UL; i < 9; i++) areas.Add(new Area(space, i * 10, 5, 100 - i));
        var map = new ReverseMap();
        foreach (var area in areas.OrderBy(area => (area.PageOffset * 31) + ((ulong)area.SpaceId.Value * 17 % 5)))
            map.Add(area);
        Assert.Equal(areas, map.All);
    }

    [Theory]
    [InlineData(0, 10, "")]
    [InlineData(0, 11, "a")]
    [InlineData(13, 14, "ab")]
    [InlineData(14, 16, "b")]
    [InlineData(10, 100, "abc")]
    [InlineData(20, ulong.MaxValue, "c")]
    [InlineData(24, ulong.MaxValue, "")]
    public void A_walk_meets_the_areas_that_map_a_page_of_the_range(ulong first, ulong last, string expected)
    {
        var map = new ReverseMap();
        var a = new Area(1, 50, 4, 10);
        var b = new Area(2, 7, 5, 13);
        var c = new Area(2, 30, 4, 20);
        foreach (var area in new[] { c, a, b }) map.Add(area);
        var met = "";
        foreach (var area in map.Over<Area>(first, last)) met += area == a ? "a" : area == b ? "b" : "c";
        Assert.Equal(expected, met);
    }

    [Fact]
    public void An_area_that_grew_downwards_is_found_and_removed()
    {
        var map = new ReverseMap();
        var below = new Area(1, 10, 2, 0);
        var grown = new Area(1, 20, 2, 8);
        map.Add(below);
        map.Add(grown);
        (grown.Range, grown.PageOffset) = (new AddressRange(14 * Page, 22 * Page), 2);
        var met = 0;
        foreach (var area in map.Over<Area>(4, 5)) met += area == grown ? 1 : 100;
        Assert.Equal(1, met);
        map.Remove(grown);
        Assert.Equal([below], map.All);
    }

    [Fact]
    public void Removing_an_area_that_is_not_there_is_a_bug_of_the_caller()
    {
        var map = new ReverseMap();
        map.Add(new Area(1, 10, 2, 0));
        Assert.Throws<InvalidOperationException>(() => map.Remove(new Area(1, 10, 2, 0)));
        Assert.Throws<InvalidOperationException>(() => map.Remove(new Area(2, 10, 2, 0)));
    }
}
